"""Whether a batch's deadline can be promised, given what is due before it, in a sentence with the arithmetic."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo

from scheduler.facts.capacity import Capacity
from scheduler.facts.durations import duration
from scheduler.facts.work import Job
from scheduler.policy.demand import pools, weigh

INFEASIBLE_CODE = "deadline_infeasible"
PEAK_CODE = "runs_in_peak_hours"

ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Remark:
    """What is said to the client: on the batch as a warning, or as the error that ends it."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class _Sums:
    """All in seconds at the off-peak rate: what there is until the deadline, and what is due until then."""

    window: float
    peak: float
    own: float
    others: float


def judge(
    job: Job,
    others: Sequence[Job],
    *,
    capacity: Capacity,
    peak_share: float,
    waits_for_windows: bool,
    tenant_weights: Mapping[str, float],
    zone: tzinfo,
    together: Mapping[str, str] | None = None,
) -> Remark | None:
    """None: nothing is known of its rate, or there is nothing to say. `capacity` is that of the batch's models, and
    `together` names the devices that models share in turns.

    It is infeasible when it cannot be done by its deadline beside all that is due, or only if its own tenant's earlier
    batches miss theirs. A tenant within its share is not turned away because another one has filled the queue.
    """
    if job.work_seconds is None:
        return None
    pool = next(pool for pool in pools([*others, job], together) if job in pool)
    rivals = [other for other in pool if other is not job]
    lost = {other.batch_id for other in _given_up(rivals, capacity, tenant_weights)}
    after = _given_up(pool, capacity, tenant_weights)
    own_lost = [other for other in after if other.tenant == job.tenant and other.batch_id not in lost]
    window = capacity.off_peak_seconds(job.due_at)
    sums = _Sums(
        window=window,
        peak=capacity.seconds(job.due_at) - window,
        own=job.work_seconds,
        others=sum(other.work_known for other in rivals if other.due_at <= job.due_at),
    )
    if own_lost:
        return Remark(INFEASIBLE_CODE, _infeasible(job, own_lost, sums, peak_share, zone))
    if waits_for_windows and sums.own + sums.others > sums.window:
        work = duration(sums.own + sums.others)
        return Remark(
            PEAK_CODE,
            f"{duration(sums.window)} of window before the deadline, {work} of work: it will also run in peak hours, "
            "below online requests.",
        )
    return None


def as_warnings(*remarks: Remark | None) -> str | None:
    """As `batches.warnings` keeps them."""
    said = [{"code": remark.code, "message": remark.message} for remark in remarks if remark is not None]
    return json.dumps(said) if said else None


def _given_up(jobs: Sequence[Job], capacity: Capacity, tenant_weights: Mapping[str, float]) -> Sequence[Job]:
    return weigh(jobs, capacity.seconds, tenant_weights=tenant_weights, optimism=1.0 - ROUNDING).given_up


def _infeasible(job: Job, lost: Sequence[Job], sums: _Sums, peak_share: float, zone: tzinfo) -> str:
    due = f"{datetime.fromtimestamp(job.due_at, zone):%a %d %b %H:%M} ({zone})"
    there = f"{duration(sums.window)} {'of window ' if sums.peak else ''}before the deadline at {due}"
    if sums.peak:
        hours = duration(sums.peak / peak_share)
        there += f", and {hours} of peak hours at {peak_share:.0%} of the rate"
    work = f"{duration(sums.own + sums.others)} of work"
    if sums.others:
        work += f": {duration(sums.own)} of this batch, {duration(sums.others)} that is due before it"
    text = f"The deadline cannot be promised: {there}; {work}."
    if job not in lost:
        first = min(lost, key=lambda other: other.due_at)
        text += f" With it, batch {first.batch_id} of the same tenant would miss its own deadline."
    return text
