"""How much work the engines can do until a given time, in seconds at their off-peak rate."""

from __future__ import annotations

from bisect import bisect_right

from scheduler.facts.windows import CHUNK_SECONDS, Calendar

AHEAD_SECONDS = 5 * CHUNK_SECONDS
"""What the windows give is added up so far ahead (40 days); later times are taken to be like these."""


PEAK_SHARE_ASSUMED = 0.5
"""While no rate has been measured in peak hours."""


class Capacity:
    """From `now` on. An hour inside a window counts whole and an hour of peak time as `peak_share` of one, which is the
    share of the off-peak rate that is left beside online work. `opening_seconds` go off every opening: an engine that
    starts with its window does not work at once.

    Made once per look at the world; every question is a binary search.
    """

    def __init__(
        self, calendar: Calendar, *, now: float, until: float, peak_share: float, opening_seconds: float = 0.0
    ) -> None:
        self._now = now
        self._end = min(max(until, now + 1.0), now + AHEAD_SECONDS)
        self._peak_share = peak_share
        self._always_open = calendar.is_always_open
        self._starts: list[float] = []
        self._opens: list[tuple[float, float]] = []
        self._before: list[float] = []
        total = 0.0
        for one in [] if self._always_open else calendar.intervals(now, self._end):
            start = one.start_at if one.start_at <= now else min(one.start_at + opening_seconds, one.end_at)
            self._starts.append(start)
            self._opens.append((start, one.end_at))
            self._before.append(total)
            total += one.end_at - start
        self._mean = total / (self._end - now)

    def off_peak_seconds(self, until: float) -> float:
        """How much of the time until then lies inside the windows."""
        if self._always_open:
            return max(0.0, until - self._now)
        if until > self._end:
            return self._within(self._end) + (until - self._end) * self._mean
        return self._within(until)

    def seconds(self, until: float) -> float:
        """Inside and outside the windows together, in off-peak seconds."""
        inside = self.off_peak_seconds(until)
        return inside + self._peak_share * max(0.0, until - self._now - inside)

    def _within(self, until: float) -> float:
        place = bisect_right(self._starts, until) - 1
        if place < 0:
            return 0.0
        start, end = self._opens[place]
        return self._before[place] + min(until, end) - start
