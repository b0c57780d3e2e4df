"""How a batch's work is spread over its lines, in the order in which they run: long answers come first, so half of the
lines are more than half of the work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

POINTS = 256
"""Pieces of a curve, however many lines: its size is the same for ten and for a million."""

FACTOR_MAX = 5.0


@dataclass(frozen=True, slots=True)
class WorkCurve:
    """`shares[i]` of the work lies in the first i/POINTS of the lines; it begins with 0 and ends with 1."""

    lines: int
    shares: tuple[float, ...]

    def done(self, lines: float) -> float:
        """The share of the work that so many lines are."""
        place = POINTS * min(1.0, max(0.0, lines / self.lines))
        before = min(int(place), POINTS - 1)
        low, high = self.shares[before], self.shares[before + 1]
        return low + (place - before) * (high - low)

    def rest_by_done(self, lines: float) -> float:
        """The work of a mean line that is left, by that of a mean line that is done; 1 at either end."""
        left = self.lines - lines
        if lines <= 0 or left <= 0:
            return 1.0
        done = self.done(lines)
        if done <= 0.0:
            return FACTOR_MAX
        return min(FACTOR_MAX, max(1 / FACTOR_MAX, (1.0 - done) / left / (done / lines)))


def curve_of(work: NDArray[Any]) -> WorkCurve | None:
    """`work` of each line, in the order in which they run; None where there is none."""
    lines = len(work)
    total = float(work.sum(dtype=np.float64))
    if not lines or total <= 0:
        return None
    sums = np.concatenate(([0.0], np.cumsum(work, dtype=np.float64)))
    places = np.linspace(0, lines, POINTS + 1)
    shares = np.interp(places, np.arange(lines + 1), sums) / total
    return WorkCurve(lines, tuple(shares.tolist()))
