"""How fast a batch goes, and when it will have ended if it goes on like this."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

WINDOW_SECONDS = 60.0
"""The rate is that of the last minute: what a batch did an hour ago, before a pause or beside others, says little."""

SPAN_SECONDS_MIN = 3.0


@dataclass(frozen=True, slots=True)
class Pace:
    """`tokens_per_s` are generated tokens, or read ones where the model generates none. `eta_at` is Unix seconds, None
    while no line has ended within the window."""

    lines_per_s: float
    tokens_per_s: float
    eta_at: int | None


@dataclass(slots=True)
class PaceMeter:
    """Fed with running totals at increasing times; forget it when the batch stops running."""

    _samples: deque[tuple[float, int, int]] = field(default_factory=deque)

    def add(self, now: float, *, lines: int, tokens: int) -> None:
        """Totals so far. Totals that fall (a shard was lost and is done again) start the window anew."""
        if self._samples and (lines < self._samples[-1][1] or now <= self._samples[-1][0]):
            self._samples.clear()
        self._samples.append((now, lines, tokens))
        while len(self._samples) > 2 and self._samples[1][0] <= now - WINDOW_SECONDS:
            self._samples.popleft()

    def pace(self, *, lines_left: int, wall_now: float, work: Callable[[int], float] | None = None) -> Pace | None:
        """None while too little is known. `wall_now` is the wall clock's idea of the newest sample's time. `work` tells
        the share of all work that so many lines are, where that is known: long lines run first."""
        if not self._samples:
            return None
        (first_at, first_lines, first_tokens), (last_at, lines, tokens) = self._samples[0], self._samples[-1]
        span = last_at - first_at
        if span < SPAN_SECONDS_MIN:
            return None
        lines_per_s, tokens_per_s = (lines - first_lines) / span, max(0, tokens - first_tokens) / span
        seconds_left = lines_left / lines_per_s if lines_per_s > 0 else None
        if work is not None and (done := work(lines) - work(first_lines)) > 0:
            seconds_left = (1.0 - work(lines)) * span / done
        eta_at = None if seconds_left is None else math.ceil(wall_now + seconds_left)
        return Pace(round(lines_per_s, 3), round(tokens_per_s, 1), eta_at)
