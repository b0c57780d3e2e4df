"""Virtual time for the deadlines benchmark: batches come, a discipline says who runs, the engine's seconds are spent.

A fluid model: within a stretch of time in which nothing comes and online load stays as it is, the engine gives all that
online requests leave to the first in the order, then to the next. Requests in flight are not modelled; a line takes
seconds, a batch minutes to hours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from benchmarks.deadlines_world import LINE_LATENCY_SECONDS, SLICE, START_AT, Job, Room

IDLE_LOOK_SECONDS = 3_600.0
"""While nothing may run, a discipline is asked again so often, at full hours, as windows open: a minute earlier or
later is of no account to whoever waits for a night."""

LINES_EPSILON = 1e-6
"""Less of a line than this is a rounding error."""


@dataclass(slots=True)
class Active:
    """A batch that has come and not ended."""

    job: Job
    lines_done: float = 0.0

    @property
    def lines_left(self) -> float:
        return self.job.lines - self.lines_done

    @property
    def ended(self) -> bool:
        return self.lines_left <= LINES_EPSILON


@dataclass(frozen=True, slots=True)
class Portion:
    """Lines that may run now, before those of the portions behind it."""

    batch: Active
    lines: float


class Discipline(Protocol):
    def portions(self, now: float, active: Mapping[str, Active]) -> Sequence[Portion]:
        """What may run, in order. Asked again when the portions are used up, when a batch comes and every slice."""

    def served(self, batch: Active, lines: float) -> None:
        """So many lines of the batch have ended; after the last one it is forgotten."""

    def passed(self, begun: float, seconds: float) -> None:
        """So much time has gone by since `begun`."""


@dataclass(frozen=True, slots=True)
class Ending:
    """A batch ends when the engine has spent the time that it needs, and its last line is through."""

    job: Job
    spent_at: float

    @property
    def ended_at(self) -> float:
        return self.spent_at + LINE_LATENCY_SECONDS

    @property
    def missed(self) -> bool:
        return self.ended_at > self.job.deadline_at

    @property
    def turnaround_seconds(self) -> float:
        return self.ended_at - self.job.created_at


@dataclass(slots=True)
class Record:
    """What a run came to. `spent` are engine seconds of batch work by slice since `START_AT`."""

    endings: dict[str, Ending] = field(default_factory=dict)
    spent: dict[int, float] = field(default_factory=dict)

    def spend(self, at: float, seconds: float) -> None:
        slice_no = int((at - START_AT) // SLICE)
        self.spent[slice_no] = self.spent.get(slice_no, 0.0) + seconds


class Run:
    """One run of a discipline over jobs, from the first one's creation until all of `until_ended` have ended."""

    def __init__(self, jobs: Iterable[Job], room: Room, discipline: Discipline) -> None:
        self._coming = sorted(jobs, key=lambda job: job.created_at)
        self._room = room
        self._discipline = discipline
        self._active: dict[str, Active] = {}
        self._ended: list[str] = []
        self.record = Record()

    def until_ended(self, wanted: Iterable[str] | None = None) -> Record:
        """Until the wanted jobs have ended; None: all."""
        left = {job.id for job in self._coming} if wanted is None else set(wanted)
        position, now = 0, self._coming[0].created_at
        while left:
            while position < len(self._coming) and self._coming[position].created_at <= now:
                job = self._coming[position]
                self._active[job.id] = Active(job)
                position += 1
            until = START_AT + ((now - START_AT) // SLICE + 1) * SLICE
            if position < len(self._coming):
                until = min(until, self._coming[position].created_at)
            if not self._active:
                now = self._coming[position].created_at
                continue
            coming = self._coming[position].created_at if position < len(self._coming) else float("inf")
            now = self._step(now, until, coming)
            for ended in self._ended:
                left.discard(ended)
            self._ended.clear()
        return self.record

    def _step(self, now: float, until: float, coming_at: float) -> float:
        """Spend the time until `until`, in which the engine's rate is one and nobody comes. Returns what time it is
        then: later than `until` when nothing may run and nobody comes before `coming_at`."""
        rate = self._room.at(now)
        begun = now
        while now < until and rate > 0:
            portions = self._discipline.portions(now, self._active)
            if not portions:
                until = until if now > begun else max(until, min(coming_at, _next_full_hour(now)))
                break
            for portion in portions:
                now = self._spend(now, until, rate, portion)
                if now >= until:
                    break
        self._discipline.passed(begun, until - begun)
        return until

    def _spend(self, now: float, until: float, rate: float, portion: Portion) -> float:
        batch, job = portion.batch, portion.batch.job
        seconds = min(until - now, portion.lines * job.seconds_per_line / rate)
        lines = seconds * rate / job.seconds_per_line
        batch.lines_done += lines
        self.record.spend(now, seconds * rate)
        self._discipline.served(batch, lines)
        if batch.ended and job.id in self._active:
            del self._active[job.id]
            self.record.endings[job.id] = Ending(job, now + seconds)
            self._ended.append(job.id)
        return now + seconds


def _next_full_hour(now: float) -> float:
    return (now // IDLE_LOOK_SECONDS + 1) * IDLE_LOOK_SECONDS
