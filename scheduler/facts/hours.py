"""When a model is served: always, in the off-peak windows, or outside them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from scheduler.facts.windows import Calendar


class Hours(StrEnum):
    """`peak` is the time in which no off-peak window is open."""

    ALWAYS = "always"
    OFF_PEAK = "off-peak"
    PEAK = "peak"

    @property
    def opposite(self) -> Hours | None:
        """The hours that never come together with these."""
        return {Hours.OFF_PEAK: Hours.PEAK, Hours.PEAK: Hours.OFF_PEAK}.get(self)


def open_at(hours: Hours, calendar: Calendar, at: float) -> bool:
    if hours is Hours.ALWAYS or calendar.is_always_open:
        return hours is not Hours.PEAK or not calendar.is_always_open
    return (calendar.open_at(at) is not None) is (hours is Hours.OFF_PEAK)


def next_change(hours: Hours, calendar: Calendar, at: float) -> float | None:
    """When `open_at` next gives another answer; None when it does not within a year."""
    if hours is Hours.ALWAYS or calendar.is_always_open:
        return None
    found = calendar.open_at(at)
    return calendar.next_opening(at) if found is None else found.end_at


def spans(hours: Hours, calendar: Calendar, since: float, until: float) -> list[tuple[float, float]]:
    """The parts of the time between two instants in which the model is served, in order."""
    if since >= until:
        return []
    if hours is Hours.ALWAYS:
        return [(since, until)]
    off_peak = [(one.start_at, one.end_at) for one in calendar.intervals(since, until)]
    return off_peak if hours is Hours.OFF_PEAK else _between(off_peak, since, until)


def serving_seconds(
    hours: Hours, calendar: Calendar, *, since: float, until: float, start_seconds: float, is_ready: bool
) -> float:
    """How long a model answers between two instants: every time that it comes back costs `start_seconds`. `is_ready`
    says that it is there at `since` already."""
    total = 0.0
    for start, end in spans(hours, calendar, since, until):
        costs = 0.0 if is_ready and start <= since else start_seconds
        total += max(0.0, end - start - costs)
    return total


def _between(taken: Sequence[tuple[float, float]], since: float, until: float) -> list[tuple[float, float]]:
    edges = [since, *(edge for span in taken for edge in span), until]
    return [(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True) if start < end]
