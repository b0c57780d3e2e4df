"""Whether a batch must wait: a person paused it, or off-peak windows are to come that suffice for its deadline.

Windows suffice for a batch when they suffice for all the work that is due up to its deadline, not for its own alone:
ten batches that each fit into the night do not fit into it together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from scheduler.facts.capacity import PEAK_SHARE_ASSUMED, Capacity, Served, Supply
from scheduler.facts.durations import duration
from scheduler.facts.tiers import DEFAULT_TERMS, Outside, TierTerms
from scheduler.facts.windows import Calendar
from scheduler.facts.work import Job, ModelKey, job_of
from scheduler.policy.demand import pools, weigh
from store.records import HELD, BatchRecord, OnDeadline

STEADY = 1.1
"""A batch that runs in peak hours goes on until the windows suffice with so much more to spare: it does not go to and
fro."""


@dataclass(frozen=True, slots=True)
class Hold:
    """What waits for `calendar`, and with how much to spare: by its tier's right, or by `outside` where that says
    nothing."""

    calendar: Calendar
    work_margin: float
    reserve_seconds: float
    outside: Outside = Outside.HOLD
    tiers: Mapping[str, TierTerms] = field(default_factory=dict)
    tenant_weights: Mapping[str, float] = field(default_factory=dict)

    def holds(self, tier: str, *, busy: bool = False) -> bool:
        """`busy`: whether it is not the clock that is asked, but somebody says to wait. Only a tier's own right to
        `fill` stands against that."""
        right = self.tiers.get(tier, DEFAULT_TERMS).outside
        inherited = Outside.HOLD if busy else self.outside
        return (inherited if right is Outside.INHERIT else right) is Outside.HOLD


@dataclass(frozen=True, slots=True)
class Holding:
    """The batches that must not run now, and those that run in peak hours although they would wait; each with the
    reason for people."""

    waits: Mapping[str, str]
    rescued: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Peak:
    """It is peak time."""

    hold: Hold
    now: float
    capacity: Capacity
    opens_at: float | None
    peak_share: float
    busy: str | None

    def holds(self, job: Job) -> bool:
        return self.hold.holds(job.tier, busy=self.busy is not None)


def waits(
    batches: Iterable[BatchRecord],
    hold: Hold | None,
    *,
    now: float,
    seconds_per_line: Mapping[ModelKey, float],
    busy: str | None = None,
) -> dict[str, str]:
    """The batches that must not run now, each with the reason for people. `hold` None: any hour is as good."""
    return dict(holding(batches, hold, now=now, seconds_per_line=seconds_per_line, busy=busy).waits)


def holding(
    batches: Iterable[BatchRecord],
    hold: Hold | None,
    *,
    now: float,
    seconds_per_line: Mapping[ModelKey, float],
    relative_size: Mapping[str, float] | None = None,
    peak_share: float = PEAK_SHARE_ASSUMED,
    busy: str | None = None,
    served: Mapping[str, Served] | None = None,
) -> Holding:
    """`busy` is a sentence of whoever says that this is no time for batch work although a window is open. `served` has
    the models that come and go, by id: work for one that is there outside the windows only does not wait for them."""
    waiting: dict[str, str] = {}
    free: dict[str, BatchRecord] = {}
    for batch in batches:
        if batch.held_at is not None:
            waiting[batch.id] = HELD
        else:
            free[batch.id] = batch
    rescued: dict[str, str] = {}
    if hold is None or not _is_peak(hold, now, busy):
        return Holding(waiting, rescued)
    jobs = [
        job_of(
            batch, now=now, seconds_per_line=seconds_per_line, relative_size=(relative_size or {}).get(batch.id, 1.0)
        )
        for batch in free.values()
    ]
    until = max((job.due_at for job in jobs), default=now)
    supply = Supply(hold.calendar, now=now, until=until, peak_share=peak_share, served=served or {})
    peak = _Peak(
        hold,
        now,
        supply.of(()),
        hold.calendar.next_opening(now) if busy is None else None,
        peak_share,
        busy,
    )
    for pool in pools(jobs, supply.together):
        capacity = supply.of(key for job in pool for key in job.models)
        _divide(pool, free, replace(peak, capacity=capacity), waiting, rescued)
    return Holding(waiting, rescued)


def _is_peak(hold: Hold, now: float, busy: str | None) -> bool:
    if busy is not None:
        return True
    return not hold.calendar.is_always_open and hold.calendar.open_at(now) is None


def _divide(
    pool: Sequence[Job],
    batches: Mapping[str, BatchRecord],
    peak: _Peak,
    waiting: dict[str, str],
    rescued: dict[str, str],
) -> None:
    """Into those that wait and those that cannot. Late ones run: waiting longer would only make them later."""
    hold = peak.hold
    holders = [job for job in pool if peak.holds(job) and peak.now < batches[job.batch_id].expires_at]
    if not holders:
        return
    kept = weigh(pool, peak.capacity.seconds, tenant_weights=hold.tenant_weights).kept
    may_wait = {job.batch_id for job in _waiting(kept, batches, peak)}
    for job in holders:
        if job.batch_id in may_wait:
            waiting[job.batch_id] = _wait_reason(batches[job.batch_id], peak)
        else:
            rescued[job.batch_id] = _rescue_reason(job, pool, peak)


def _waiting(kept: Sequence[Job], batches: Mapping[str, BatchRecord], peak: _Peak) -> list[Job]:
    """Those for which the windows suffice, of jobs by deadline. Where they do not, all that is due until then runs now:
    whichever of it is done by day, the night has less to do."""
    hold, work = peak.hold, 0.0
    found: list[Job] = []
    if peak.opens_at is None and peak.busy is None:
        return found
    filled = 0.0 if peak.opens_at is None else (peak.opens_at - peak.now) * peak.peak_share
    for job in kept:
        if not peak.holds(job):  # runs now, as far as the peak hours go
            done = min(filled, job.work_known)
            filled -= done
            work += job.work_known - done
            continue
        work += job.work_known
        found.append(job)
        steady = STEADY if batches[job.batch_id].paused_at is None else 1.0
        if peak.capacity.off_peak_seconds(job.due_at) < (work * hold.work_margin + hold.reserve_seconds) * steady:
            found, work = [], 0.0
    return found


def _wait_reason(batch: BatchRecord, peak: _Peak) -> str:
    calendar = peak.hold.calendar
    end = "expires" if batch.on_deadline is OnDeadline.EXPIRE else "is due"
    due = f"the batch {end} at {datetime.fromtimestamp(batch.expires_at, calendar.zone):%a %d %b %H:%M}"
    if peak.opens_at is None:
        return f"{peak.busy}; {due} ({calendar.zone})."
    name = calendar.intervals(peak.opens_at, peak.opens_at + 1)[0].name
    opens = datetime.fromtimestamp(peak.opens_at, calendar.zone)
    return f"Waits for the off-peak window '{name}', which opens at {opens:%a %d %b %H:%M} ({calendar.zone}); {due}."


def _rescue_reason(job: Job, pool: Sequence[Job], peak: _Peak) -> str:
    work = sum(other.work_known for other in pool if other.due_at <= job.due_at)
    off_peak = peak.capacity.off_peak_seconds(job.due_at)
    return (
        f"Runs in peak hours, below online requests: {duration(off_peak)} of off-peak time before its deadline, "
        f"{duration(work)} of work that is due until then."
    )
