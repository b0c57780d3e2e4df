"""How long an engine's step takes with so many requests running: a straight line through what was measured. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

WEIGHT = 0.1
"""Weight of the newest sample in its group's mean."""

GROUP_SAMPLES_MIN = 3
GROUPS_PER_DOUBLING = 2
FORGET_SECONDS = 1800.0
"""A count of requests that has not been seen for this long says nothing of the engine as it is now."""

SPREAD_MIN = 1.5
"""Largest over smallest count of requests from which on two groups make a line."""


@dataclass(frozen=True, slots=True)
class Group:
    """What was measured with about the same number of requests running."""

    running: float
    step_ms: float
    samples: int
    seen_at: float


@dataclass(frozen=True, slots=True)
class StepFit:
    """`base_ms` is a step's fixed part, `each_ms` that of one request.

    Samples are grouped by how many requests ran, so that an hour at full load does not drown the minute at low load
    without which there is no line.
    """

    groups: Mapping[int, Group] = field(default_factory=dict)
    base_ms: float = 0.0
    each_ms: float = 0.0
    is_trusted: bool = False

    def seen(self, running: int, step_ms: float, *, now: float) -> StepFit:
        """With one more sample. What says nothing (nothing ran, no time known) is left out."""
        if running <= 0 or step_ms <= 0 or not math.isfinite(step_ms):
            return self
        kept = {key: group for key, group in self.groups.items() if now - group.seen_at < FORGET_SECONDS}
        key = round(math.log2(running) * GROUPS_PER_DOUBLING)
        group = kept.get(key, Group(running, step_ms, 0, now))
        weight = max(WEIGHT, 1 / (group.samples + 1))
        kept[key] = Group(
            group.running + weight * (running - group.running),
            group.step_ms + weight * (step_ms - group.step_ms),
            group.samples + 1,
            now,
        )
        return _fitted(kept)

    def step_ms(self, running: float) -> float:
        return self.base_ms + self.each_ms * running

    def running_within(self, step_ms: float) -> float:
        """How many requests make a step of that length; endlessly many on an engine whose steps are flat."""
        if step_ms <= self.base_ms:
            return 0.0
        return (step_ms - self.base_ms) / self.each_ms if self.each_ms > 0 else math.inf


def _fitted(groups: Mapping[int, Group]) -> StepFit:
    """Least squares in relative error: the line has to be right where steps are short, that is beside online."""
    known = [group for group in groups.values() if group.samples >= GROUP_SAMPLES_MIN]
    if len(known) < 2:
        return StepFit(groups)
    weights = [1 / group.step_ms**2 for group in known]
    total = sum(weights)
    mean_n = sum(w * g.running for w, g in zip(weights, known, strict=True)) / total
    mean_ms = sum(w * g.step_ms for w, g in zip(weights, known, strict=True)) / total
    variance = sum(w * (g.running - mean_n) ** 2 for w, g in zip(weights, known, strict=True))
    covariance = sum(w * (g.running - mean_n) * (g.step_ms - mean_ms) for w, g in zip(weights, known, strict=True))
    each = max(0.0, covariance / variance) if variance > 0 else 0.0  # noise on a flat line is no gain per request
    base = max(0.0, mean_ms - each * mean_n)
    counts = [group.running for group in known]
    return StepFit(groups, base, each, is_trusted=base > 0 and max(counts) >= SPREAD_MIN * min(counts))
