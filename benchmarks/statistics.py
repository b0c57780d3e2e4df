"""Medians and how far to trust them. Pure: the random generator is seeded by the caller."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

RESAMPLES = 2_000
LEVEL = 0.95


def median(values: Sequence[float]) -> float:
    if not values:
        raise ValueError("the median of nothing is not a number: measure at least once")
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return ordered[middle - 1] + (ordered[middle] - ordered[middle - 1]) / 2


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest measured value that at least `share` of the values do not exceed: never an interpolated one."""
    if not values or not 0 <= share <= 1:
        raise ValueError(f"needs values and a share from 0 to 1, got {len(values)} values and {share}")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def bootstrap_interval(
    values: Sequence[float], *, seed: int = 0, level: float = LEVEL, resamples: int = RESAMPLES
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of the median; None below two values, where it would only repeat the value.

    With three to five repetitions it is the spread of the repetitions, no more: read it as "it moved this much".
    """
    if len(values) < 2:
        return None
    source = random.Random(seed)
    medians = sorted(median(source.choices(values, k=len(values))) for _ in range(resamples))
    tail = (1 - level) / 2
    return quantile(medians, tail), quantile(medians, 1 - tail)


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """`ours / theirs` by round: alternation makes neighbours comparable, so drift of the machine cancels out."""
    if len(ours) != len(theirs):
        raise ValueError(f"arms alternate, so they have equally many rounds: got {len(ours)} and {len(theirs)}")
    if any(value <= 0 for value in theirs):
        raise ValueError("a rate of zero has no ratio: that round did not measure anything")
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]
