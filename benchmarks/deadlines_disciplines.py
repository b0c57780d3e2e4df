"""Who runs: first come first served, earliest deadline first, and the scheduler's own policy code.

The first two run at any hour and know nothing of windows, as every queue before an engine does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from benchmarks.deadlines_clock import Active, Portion


class Ordered:
    """One batch after the other, whenever the engine has time; who comes first may take over at any moment."""

    def __init__(self, key: Callable[[Active], tuple[float, str]]) -> None:
        self._key = key

    def portions(self, now: float, active: Mapping[str, Active]) -> Sequence[Portion]:
        first = min(active.values(), key=self._key, default=None)
        return [] if first is None else [Portion(first, first.lines_left)]

    def served(self, batch: Active, lines: float) -> None:
        """Nothing is remembered."""

    def passed(self, begun: float, seconds: float) -> None:
        """Nothing is remembered."""


def fcfs() -> Ordered:
    return Ordered(lambda batch: (batch.job.created_at, batch.job.id))


def edf() -> Ordered:
    return Ordered(lambda batch: (batch.job.deadline_at, batch.job.id))
