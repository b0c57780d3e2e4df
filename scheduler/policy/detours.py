"""When lines of other batches may go before the next line of the batch whose turn it is: to save reading a prefix.

A beginning that several batches have in common is read once if their lines of it run together. But the batch in front
is in front for a reason: the others' lines go first only where that saves a good part of what they cost, only so many
for each line of its own, and never while its deadline is short.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from scheduler.facts.sizes import OUTPUT_WEIGHT
from scheduler.policy.packer import Cost

SAVED_PART_MIN = 1 / 8
"""Of the work of the lines that go first, their prefix must be at least this much."""

LINES_PER_LINE = 3
"""Lines of others for each line of the batch in front: it takes at most so many times longer than by itself."""

LINES_SAVED_MAX = 256
"""So many at once, however many lines of its own went before."""

HURRIED_SECONDS = 600.0
"""A batch with less time than this to spare lets nobody go first."""


@dataclass(slots=True)
class Run:
    """Lines of one shard that begin alike. `work` is in read tokens, without the prefix."""

    lines: int = 0
    work: float = 0.0
    prefix_tokens: int = 0


def runs_of(costs: Iterable[Cost]) -> dict[int, Run]:
    """By the key of their prefix."""
    runs: dict[int, Run] = {}
    for cost in costs:
        if not cost.prefix:
            continue
        run = runs.get(cost.prefix)
        if run is None:
            run = runs[cost.prefix] = Run()
        run.lines += 1
        run.prefix_tokens = max(run.prefix_tokens, cost.prefix_tokens)
        run.work += cost.read_tokens - cost.prefix_tokens + OUTPUT_WEIGHT * (cost.tokens - cost.read_tokens)
    return runs


def pays(run: Run, prefix_tokens: int) -> bool:
    """Whether it is worth while to run these lines now, while a prefix of so many tokens of theirs is in the cache."""
    return prefix_tokens >= SAVED_PART_MIN * run.work


@dataclass(slots=True)
class Credit:
    """How many lines of others may go before the next one of the batch in front."""

    batch_id: str = ""
    lines: int = 0

    def earn(self, batch_id: str) -> None:
        """A line of the batch in front went. What another one earned is gone: it would be paid by this one."""
        if batch_id != self.batch_id:
            self.batch_id, self.lines = batch_id, 0
        self.lines = min(LINES_SAVED_MAX, self.lines + LINES_PER_LINE)

    def spend(self) -> None:
        self.lines -= 1

    def of(self, batch_id: str) -> int:
        return self.lines if batch_id == self.batch_id else 0
