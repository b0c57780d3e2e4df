"""What the deadlines benchmark compares: three disciplines on the same weeks, and what is read from each run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

from benchmarks import deadlines_disciplines as disciplines
from benchmarks import statistics
from benchmarks.deadlines_clock import Discipline, Ending, Record, Run
from benchmarks.deadlines_planned import SETTINGS, Planned
from benchmarks.deadlines_world import SLICE, START_AT, TENANTS, WEEK, Job, Room, jobs
from scheduler.policy.holding import Hold

WARM_UP_WEEKS, WEEKS = 1, 3
"""The week that is measured follows one that fills the queue, and work goes on coming until its batches have ended."""

BOUND_STEPS = 7


@dataclass(frozen=True, slots=True)
class Weeks:
    """`measured` are the batches that came in the measured week."""

    room: Room
    jobs: Sequence[Job]
    measured: Sequence[Job]
    work_seconds: float

    @property
    def slices(self) -> range:
        per_week = int(WEEK / SLICE)
        return range(WARM_UP_WEEKS * per_week, (WARM_UP_WEEKS + 1) * per_week)


def weeks(room: Room, *, work_seconds: float, estimates_off: float, seed: int) -> Weeks:
    """`work_seconds` is the work of a week."""
    every = jobs(weeks=WEEKS, work_seconds=WEEKS * work_seconds, estimates_off=estimates_off, seed=seed)
    since = START_AT + WARM_UP_WEEKS * WEEK
    return Weeks(room, every, [job for job in every if since <= job.created_at < since + WEEK], work_seconds)


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of one discipline. `stretch` is turnaround over turnaround alone, under the same discipline."""

    endings: Mapping[str, Ending]
    misses: Sequence[Ending]
    stretch: Sequence[float]
    stretch_any_hour: Sequence[float]
    off_peak_share: float
    spent: Mapping[int, float]

    def stretch_quantile(self, share: float) -> float:
        return statistics.quantile(self.stretch, share)


Make = Callable[[Weeks, Planned | None], Discipline]
"""A fresh discipline; the second argument is one that has run, whose measured rates a batch alone would find."""


def _ours(weeks: Weeks, before: Planned | None) -> Planned:
    hold = Hold(weeks.room.calendar, SETTINGS.hold_work_margin, SETTINGS.hold_reserve_seconds, tenant_weights=TENANTS)
    rate = None if before is None else deepcopy(before.rate)
    return Planned(weeks.room.calendar, hold, rate=rate, tenant_weights=TENANTS)


DISCIPLINES: Mapping[str, Make] = {
    "fcfs": lambda _weeks, _before: disciplines.fcfs(),
    "edf": lambda _weeks, _before: disciplines.edf(),
    "ours": _ours,
}


def measure(weeks: Weeks, name: str) -> Measured:
    discipline = DISCIPLINES[name](weeks, None)
    record = Run(weeks.jobs, weeks.room, discipline).until_ended(job.id for job in weeks.measured)
    endings = {job.id: record.endings[job.id] for job in weeks.measured}
    before = discipline if isinstance(discipline, Planned) else None
    alone = {job.id: _alone(job, weeks, DISCIPLINES[name](weeks, before)) for job in weeks.measured}
    any_hour = {job.id: _alone(job, weeks, disciplines.fcfs()) for job in weeks.measured}
    return Measured(
        endings=endings,
        misses=[ending for ending in endings.values() if ending.missed],
        stretch=[ending.turnaround_seconds / alone[job_id] for job_id, ending in endings.items()],
        stretch_any_hour=[ending.turnaround_seconds / any_hour[job_id] for job_id, ending in endings.items()],
        off_peak_share=_off_peak_share(record, weeks),
        spent=record.spent,
    )


def _alone(job: Job, weeks: Weeks, discipline: Discipline) -> float:
    return Run([job], weeks.room, discipline).until_ended().endings[job.id].turnaround_seconds


def _off_peak_share(record: Record, weeks: Weeks) -> float:
    """Of the batch tokens of the measured week, by the time that they take."""
    total = sum(record.spent.get(no, 0.0) for no in weeks.slices)
    return sum(record.spent.get(no, 0.0) for no in _open_slices(weeks)) / total


def off_peak_bound(weeks: Weeks) -> float:
    """The most that any discipline could do inside the windows of that week, were all other work left for them."""
    inside = sum(weeks.room.slices[no] for no in _open_slices(weeks))
    return min(1.0, inside / weeks.work_seconds)


def _open_slices(weeks: Weeks) -> Iterator[int]:
    return (no for no in weeks.slices if weeks.room.calendar.open_at(START_AT + no * SLICE) is not None)


def fluid_bound(weeks: Weeks) -> float:
    """How much more work, as a factor, these batches could have before no discipline whatever could keep all deadlines.

    One engine whose time can be split at will: where any order keeps all deadlines, earliest deadline first does, so
    it is run with the true sizes.
    """
    low, high = 0.0, 4.0
    for _ in range(BOUND_STEPS):
        middle = (low + high) / 2
        larger = [replace(job, seconds_per_line=job.seconds_per_line * middle) for job in weeks.jobs]
        endings = Run(larger, weeks.room, disciplines.edf()).until_ended().endings
        low, high = (low, middle) if any(one.missed for one in endings.values()) else (middle, high)
    return low
