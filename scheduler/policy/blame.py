"""Whose fault an engine's death was.

A death is charged to the engine, and its lines go back to the queue. Only lines that were in flight at two deaths are
suspects: they run in groups with nothing else in flight, and a group that kills its engine again is halved. A line is
blamed after `ALONE_DEATHS_MAX` deaths with it alone.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

DEATHS_TO_SUSPECT = 2
ALONE_DEATHS_MAX = 2

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Verdict(Generic[K]):
    """What happens to the lines of one death: each is in exactly one of the three.

    `groups` are to run one after another, each with nothing else in flight.
    """

    requeue: tuple[K, ...] = ()
    groups: tuple[tuple[K, ...], ...] = ()
    blamed: tuple[K, ...] = ()


@dataclass(slots=True)
class BlameLedger(Generic[K]):
    """Deaths by line, forgotten when the line has its result."""

    _deaths: dict[K, int] = field(default_factory=dict)
    _alone: dict[K, int] = field(default_factory=dict)

    def died(self, lines: Collection[K], *, isolated: bool) -> Verdict[K]:
        """An engine died with `lines` in flight (in the order they should run again).

        `isolated`: they were one of a verdict's groups, so nothing else was in flight.
        """
        for line in lines:
            self._deaths[line] = self._deaths.get(line, 0) + 1
        if isolated:
            return self._split(tuple(lines))
        suspects = tuple(line for line in lines if self._deaths[line] >= DEATHS_TO_SUSPECT)
        rest = tuple(line for line in lines if self._deaths[line] < DEATHS_TO_SUSPECT)
        return Verdict(requeue=rest, groups=_halves(suspects))

    def finished(self, line: K) -> None:
        if self._deaths:
            self._deaths.pop(line, None)
            self._alone.pop(line, None)

    def _split(self, lines: tuple[K, ...]) -> Verdict[K]:
        if len(lines) != 1:
            return Verdict(groups=_halves(lines))
        self._alone[lines[0]] = self._alone.get(lines[0], 0) + 1
        if self._alone[lines[0]] >= ALONE_DEATHS_MAX:
            return Verdict(blamed=lines)
        return Verdict(groups=(lines,))

    def alone_deaths(self, line: K) -> int:
        return self._alone.get(line, 0)


def _halves(lines: tuple[K, ...]) -> tuple[tuple[K, ...], ...]:
    middle = (len(lines) + 1) // 2
    return tuple(half for half in (lines[:middle], lines[middle:]) if half)
