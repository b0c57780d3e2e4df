"""The order of batches: short ones first while every deadline can wait for them, by deadline where it cannot.

Three rules, in one pass:

1. A batch goes ahead of others that are due before it only if all of those have the time to wait until it is done,
   with `estimate_margin` on every estimate. So no deadline is missed for the sake of the order.
2. Among those that may, the short ones go first (size times what is left of it, so that a small batch never waits for a
   million-line one), and age counts: one that has waited longer than it takes moves up.
3. A tenant that has had `fair_lag_seconds` more of the engines than its share counts as twice as long there for each
   FAIR_HALF_SECONDS beyond: its small batches still go ahead of others' large ones for a while.

What may not go ahead runs earliest deadline first. A batch whose deadline cannot be kept breaks no other one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from scheduler.facts.capacity import Capacity, Supply
from scheduler.facts.work import Job
from scheduler.policy.demand import Demand, Spare, pools, weigh

STRETCH = 10.0
"""Turnaround over turnaround alone from which on age counts."""

AGED_MAX = 100.0
"""How much age counts at most: a batch that has waited all day for its window is no reason to let a small one wait that
comes in the evening."""

FAIR_HALF_SECONDS = 450.0
BEYOND_MAX_SECONDS = 4 * 3600.0

LOOKED_AT_MAX = 256
"""Batches that are looked at for going ahead of others in one pass; the rest follow by deadline."""


class Turn(StrEnum):
    """Why a batch has its place."""

    SHORT = "short_first"
    """All deadlines before its own can wait for it: shortest first, older ones sooner."""
    FAIR = "behind_its_share"
    """As above, but its tenant has had more than its share, so others are preferred."""
    DUE = "by_deadline"
    """Time is short for what is due up to its deadline: earliest first."""
    UNLIKELY = "deadline_out_of_reach"
    """Not to be done by its deadline, at the present rate: runs when nothing else would miss its own for it."""
    WAITS = "waits"
    """It must not run now: a person's hold, or off-peak windows to come."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """A batch's place (from 0, over all models) and why. Unknown work counts as none.

    `slack_seconds`: deadline minus now minus the estimated work left. `spare_seconds`: the same with the work of all
    that is due before and the hours that online work takes, the least over what is due from there on: below zero a
    deadline is at risk. `share` is its tenant's part of the engines while all that want them are served, and
    `ahead_seconds` how much more than that the tenant has had lately.
    """

    batch_id: str
    place: int
    turn: Turn
    slack_seconds: float
    spare_seconds: float
    work_seconds: float | None
    share: float
    ahead_seconds: float


@dataclass(frozen=True, slots=True)
class Order:
    """What the order is made by."""

    tenant_weights: Mapping[str, float] = field(default_factory=dict)
    estimate_margin: float = 1.3
    fair_lag_seconds: float = 3600.0


@dataclass(frozen=True, slots=True)
class Queue:
    """The batches of one look at the world. `waiting` must not run now but are still due; `held` are put aside
    altogether. `ahead` has for each tenant how many seconds of the engines it has had beyond its share."""

    jobs: Sequence[Job]
    now: float
    capacity: Capacity
    ahead: Mapping[str, float] = field(default_factory=dict)
    waiting: frozenset[str] = frozenset()
    held: frozenset[str] = frozenset()
    supply: Supply | None = None
    """Where models come and go: the capacity of each pool, in place of `capacity`."""

    def capacity_of(self, pool: Iterable[Job]) -> Capacity:
        if self.supply is None:
            return self.capacity
        return self.supply.of(key for job in pool for key in job.models)


def rank(queue: Queue, order: Order) -> tuple[Ranked, ...]:
    """All of them, those that run first in front."""
    share = shares({job.tenant for job in queue.jobs}, order.tenant_weights)
    places: list[tuple[bool, float, Job, Turn, float]] = []
    for pool in pools([job for job in queue.jobs if job.batch_id not in queue.held]):
        for place, (job, turn, spare) in enumerate(_in_order(pool, queue, order)):
            places.append((turn is Turn.WAITS, place, job, turn, spare))
    aside = [job for job in queue.jobs if job.batch_id in queue.held]
    places += [(True, float("inf"), job, Turn.WAITS, _alone_spare(job, queue.now)) for job in aside]
    places.sort(key=lambda item: item[:2])
    return tuple(
        Ranked(
            batch_id=job.batch_id,
            place=place,
            turn=turn,
            slack_seconds=job.due_at - queue.now - job.work_known,
            spare_seconds=spare,
            work_seconds=job.work_seconds,
            share=share[job.tenant],
            ahead_seconds=queue.ahead.get(job.tenant, 0.0),
        )
        for place, (_, _, job, turn, spare) in enumerate(places)
    )


def _in_order(pool: Sequence[Job], queue: Queue, order: Order) -> list[tuple[Job, Turn, float]]:
    capacity = queue.capacity_of(pool)
    demand = weigh(pool, capacity.seconds, tenant_weights=order.tenant_weights)
    spare = Spare(demand.kept, capacity.seconds, margin=1.0)
    first = _ahead_of_deadlines(demand, queue, order, capacity)
    placed = {job.batch_id for job, _ in first} | queue.waiting
    turns = [
        *first,
        *((job, Turn.DUE) for job in demand.kept if job.batch_id not in placed),
        *((job, Turn.UNLIKELY) for job in demand.given_up if job.batch_id not in placed),
        *((job, Turn.WAITS) for job in sorted(pool, key=lambda job: job.due_at) if job.batch_id in queue.waiting),
    ]
    lost = {job.batch_id for job in demand.given_up}
    return [
        (job, turn, _alone_spare(job, queue.now) if job.batch_id in lost else spare.from_(job.due_at))
        for job, turn in turns
    ]


def _ahead_of_deadlines(demand: Demand, queue: Queue, order: Order, capacity: Capacity) -> list[tuple[Job, Turn]]:
    """Those that all deadlines before their own can wait for, in the order in which they run."""
    spare = Spare(demand.kept, capacity.seconds, margin=order.estimate_margin, regardless=queue.waiting)
    lost = {job.batch_id for job in demand.given_up}
    over = {tenant for tenant, seconds in queue.ahead.items() if seconds > order.fair_lag_seconds}
    jobs = [job for job in (*demand.kept, *demand.given_up) if job.batch_id not in queue.waiting]

    def turn_of(job: Job) -> Turn:
        if job.batch_id in lost:
            return Turn.UNLIKELY
        if job.batch_id in short:
            return Turn.DUE
        return Turn.FAIR if job.tenant in over else Turn.SHORT

    short = {job.batch_id for job in jobs if spare.at(job.due_at) < 0}
    in_lines = any(job.work_seconds is None for job in jobs)

    def place(job: Job) -> tuple[float, float]:
        beyond = min(BEYOND_MAX_SECONDS, max(0.0, queue.ahead.get(job.tenant, 0.0) - order.fair_lag_seconds))
        return eagerness(job, queue.now, in_lines=in_lines) * 2 ** (beyond / FAIR_HALF_SECONDS), job.due_at

    jobs.sort(key=place)
    return [
        (job, turn_of(job))
        for job in jobs[:LOOKED_AT_MAX]
        if spare.put_ahead(job.work_known, float("inf") if job.batch_id in lost else job.due_at)
    ]


def eagerness(job: Job, now: float, *, in_lines: bool) -> float:
    """Lower goes first: size times what is left (the order that keeps mean stretch low), by the tier's weight; beyond
    STRETCH it falls with the square of how often its own length it has waited, down to a part of AGED_MAX."""
    if in_lines or job.alone_seconds is None or job.work_seconds is None:
        return job.lines * job.lines_left / job.weight
    stretch = (now - job.created_at) / max(job.alone_seconds, 1.0)
    aged = min(AGED_MAX, max(1.0, stretch / STRETCH) ** 2)
    return job.alone_seconds * job.work_seconds / (job.weight * aged)


def shares(tenants: Collection[str], weights: Mapping[str, float]) -> dict[str, float]:
    """Each tenant's part of the engines while all of these want them."""
    total = sum(weights.get(tenant, 1.0) for tenant in tenants)
    return {tenant: weights.get(tenant, 1.0) / total for tenant in tenants}


def _alone_spare(job: Job, now: float) -> float:
    return job.due_at - now - job.work_known
