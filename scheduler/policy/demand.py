"""What is due by when, against what the engines can do by then: which deadlines can be kept, and with how much to
spare."""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.facts.work import Job, ModelKey

OPTIMISM = 0.75
"""A deadline is given up only when it cannot be kept even if the work is a quarter less than estimated."""


@dataclass(frozen=True, slots=True)
class Demand:
    """`kept` are the jobs whose deadlines can be kept together, earliest first; `given_up` the others."""

    kept: tuple[Job, ...]
    given_up: tuple[Job, ...]


def pools(jobs: Sequence[Job], together: Mapping[str, str] | None = None) -> list[list[Job]]:
    """Jobs that compete for the same engines: those that share a model, directly or through others, or whose models
    take turns on one device (`together`: model id -> device)."""
    leader: dict[ModelKey, ModelKey] = {}

    def find(key: ModelKey) -> ModelKey:
        while leader.setdefault(key, key) != key:
            leader[key] = leader[leader[key]]
            key = leader[key]
        return key

    for job in jobs:
        first, *others = job.models or (ModelKey("", ""),)
        for other in others:
            leader[find(other)] = find(first)
        for key in job.models:
            if together is not None and (device := together.get(key.id)) is not None:
                leader[find(key)] = find(ModelKey("", device))
        find(first)
    found: dict[ModelKey, list[Job]] = defaultdict(list)
    for job in jobs:
        found[find(next(iter(job.models), ModelKey("", "")))].append(job)
    return list(found.values())


def weigh(
    jobs: Iterable[Job],
    capacity_seconds: Callable[[float], float],
    *,
    tenant_weights: Mapping[str, float],
    optimism: float = OPTIMISM,
) -> Demand:
    """Keep as many deadlines as there is room for (Moore and Hodgson: where the work due by a time exceeds what can be
    done by then, the largest job gives way). The tenant with the most work for its weight gives way first, so that one
    who floods the queue breaks its own deadlines and nobody else's.
    """
    kept: dict[str, Job] = {}
    largest: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
    wanted: dict[str, float] = defaultdict(float)
    given_up: list[Job] = []
    total = 0.0
    for job in sorted(jobs, key=lambda job: (job.due_at, job.created_at)):
        work = job.work_known * optimism
        kept[job.batch_id] = job
        heapq.heappush(largest[job.tenant], (-work, -job.created_at, job.batch_id))
        wanted[job.tenant] += work
        total += work
        room = capacity_seconds(job.due_at)
        while total > room and total > 0:
            tenant = max(wanted, key=lambda name: wanted[name] / tenant_weights.get(name, 1.0))
            size, _, batch_id = heapq.heappop(largest[tenant])
            wanted[tenant] += size
            total += size
            given_up.append(kept.pop(batch_id))
            if not largest[tenant]:
                del wanted[tenant]
    return Demand(tuple(kept.values()), tuple(given_up))


class Spare:
    """What is left of the engines' time before each deadline once all that is due until then is done."""

    def __init__(
        self,
        kept: Sequence[Job],
        capacity_seconds: Callable[[float], float],
        *,
        margin: float,
        regardless: Collection[str] = (),
    ) -> None:
        """`margin` 1.3 counts the work as a third more than estimated. The work of `regardless` counts, but not their
        deadlines: they cannot run now whatever waits for them."""
        self._margin = margin
        self._due = [job.due_at for job in kept]
        work = np.cumsum([job.work_known for job in kept]) if kept else np.zeros(0)
        room = np.array([capacity_seconds(due) for due in self._due])
        self._spare: NDArray[np.float64] = room - margin * work
        self._spare[[place for place, job in enumerate(kept) if job.batch_id in regardless]] = np.inf

    def before(self, due_at: float) -> float:
        """The least over all deadlines before this one: how long they can be made to wait for something else."""
        place = bisect_left(self._due, due_at)
        return float(self._spare[:place].min()) if place else float("inf")

    def at(self, due_at: float) -> float:
        """At the last deadline up to this one."""
        place = bisect_right(self._due, due_at) - 1
        return float(self._spare[place]) if place >= 0 else float("inf")

    def from_(self, due_at: float) -> float:
        """The least over all deadlines from this one on."""
        place = bisect_left(self._due, due_at)
        return float(self._spare[place:].min()) if place < len(self._due) else float("inf")

    def put_ahead(self, work_seconds: float, due_at: float) -> bool:
        """Whether all that is due before `due_at` can wait until this much is done; then it is taken off."""
        needed = self._margin * work_seconds
        if self.before(due_at) < needed:
            return False
        self._spare[: bisect_left(self._due, due_at)] -= needed
        return True
