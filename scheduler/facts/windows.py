"""Off-peak windows: when they are open, in UTC seconds, whatever the clocks of their zone do.

A window is given in local time: days, start, end, zone. Both ends become instants at once and everything else is
arithmetic on those: the difference of two local times of one zone is wrong on the day on which its clocks change.

- A local time that does not exist (clocks go forward over it) stands for the instant at which they go forward, so a
  window that lies within the missing hour is empty on that day.
- A local time that comes twice means its first coming for a start and its second for an end: a window is never cut in
  two, and one over the repeated hour is an hour longer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache

DAY_NAMES = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
HOLIDAY = "holiday"
CHUNK_SECONDS = 8 * 24 * 3600.0
HORIZON_SECONDS = 50 * CHUNK_SECONDS
"""How far ahead an opening or a closing is looked for: what opens at all does so within a year."""

_ONE_DAY = timedelta(days=1)
_MIDNIGHT = time(0)


@dataclass(frozen=True, slots=True)
class Window:
    """Open on each of `days` (0 is Monday) from `start` to `end`; an `end` at or before `start` is on the next day."""

    name: str
    days: frozenset[int]
    start: time
    end: time
    zone: tzinfo

    def on(self, day: date) -> Interval:
        """The window that starts on this local day."""
        return _on(self, day)


@dataclass(frozen=True, slots=True)
class Interval:
    """Open from `start_at` until before `end_at`, Unix seconds."""

    name: str
    start_at: float
    end_at: float


@dataclass(frozen=True, slots=True)
class Calendar:
    """All windows together. On `holidays` (local dates of `zone`) the whole day is off-peak. Without a window it is
    always open: nothing is said about peak hours then."""

    windows: tuple[Window, ...] = ()
    holidays: frozenset[date] = frozenset()
    zone: tzinfo = UTC

    @property
    def is_always_open(self) -> bool:
        return not self.windows

    def open_at(self, at: float) -> Interval | None:
        """From `at` to the closing of what is open then; None in peak time."""
        until = at + CHUNK_SECONDS
        found = self.intervals(at, until)
        if not found or found[0].start_at > at:
            return None
        name, end = found[0].name, found[0].end_at
        while end == until < at + HORIZON_SECONDS:
            until += CHUNK_SECONDS
            found = self.intervals(end, until)
            if not found or found[0].start_at > end:
                break
            end = found[0].end_at
        return Interval(name, at, end)

    def next_opening(self, at: float) -> float | None:
        """When peak time that holds at `at` ends; None when no window opens within HORIZON_SECONDS."""
        since = at
        while since < at + HORIZON_SECONDS:
            for found in self.intervals(since, since + CHUNK_SECONDS):
                return found.start_at
            since += CHUNK_SECONDS
        return None

    def open_seconds(self, since: float, until: float) -> float:
        """How much off-peak time lies between two instants."""
        return sum(found.end_at - found.start_at for found in self.intervals(since, until))

    def intervals(self, since: float, until: float) -> list[Interval]:
        """What is open between two instants, in order and cut to them. Windows that overlap or touch are one interval,
        named after the first."""
        if since >= until:
            return []
        if self.is_always_open:
            return [Interval("", since, until)]
        joined: list[Interval] = []
        for one in sorted(self._touching(since, until), key=lambda found: (found.start_at, -found.end_at)):
            start, end = max(one.start_at, since), min(one.end_at, until)
            if start >= end:
                continue
            if joined and start <= joined[-1].end_at:
                last = joined[-1]
                joined[-1] = Interval(last.name, last.start_at, max(last.end_at, end))
            else:
                joined.append(Interval(one.name, start, end))
        return joined

    def _touching(self, since: float, until: float) -> Iterator[Interval]:
        for window in self.windows:
            for day in _days(since, until, window.zone):
                if day.weekday() in window.days:
                    yield window.on(day)
        for day in _days(since, until, self.zone):
            if day in self.holidays:
                yield Window(HOLIDAY, frozenset(), _MIDNIGHT, _MIDNIGHT, self.zone).on(day)


def may_wait(
    calendar: Calendar,
    *,
    now: float,
    deadline: float,
    work_seconds: float | None,
    margin: float,
    reserve_seconds: float,
) -> bool:
    """Whether work can be left until the windows open and still be done by its deadline, inside the windows alone.

    `work_seconds` is what it takes at the measured rate, None while nothing is known of that: then it waits if there is
    off-peak time left at all. `margin` (1.25: a quarter more) and `reserve_seconds` (an engine's start) are for what an
    estimate cannot know.
    """
    off_peak_seconds = calendar.open_seconds(now, deadline)
    if work_seconds is None:
        return off_peak_seconds > reserve_seconds
    return off_peak_seconds >= work_seconds * margin + reserve_seconds


@lru_cache(maxsize=4096)  # the same few days are asked for again with every tick and batch
def _on(window: Window, day: date) -> Interval:
    last = day if window.end > window.start else day + _ONE_DAY
    start_at = _instant(day, window.start, window.zone, fold=0)
    return Interval(window.name, start_at, _instant(last, window.end, window.zone, fold=1))


def _instant(day: date, at: time, zone: tzinfo, *, fold: int) -> float:
    """Unix seconds of a local time. One that is skipped becomes the instant of the change itself."""
    local = datetime.combine(day, at, zone).replace(fold=fold)
    there_and_back = local.astimezone(UTC).astimezone(zone)
    if there_and_back.replace(tzinfo=None, fold=0) == local.replace(tzinfo=None, fold=0):
        return local.timestamp()
    return _change_between(local.replace(fold=1).timestamp(), local.replace(fold=0).timestamp(), zone)


def _change_between(low: float, high: float, zone: tzinfo) -> float:
    """The instant between the two at which the zone's offset changes, to the second."""
    before = datetime.fromtimestamp(low, zone).utcoffset()
    first, last = int(low), int(high)
    while last - first > 1:
        middle = (first + last) // 2
        if datetime.fromtimestamp(middle, zone).utcoffset() == before:
            first = middle
        else:
            last = middle
    return float(last)


def _days(since: float, until: float, zone: tzinfo) -> Iterator[date]:
    """Local days on which a window that touches the time between may start: a window lasts a day and an hour at most,
    and one that it touches may have begun a day before."""
    day = datetime.fromtimestamp(since, zone).date() - 2 * _ONE_DAY
    last = datetime.fromtimestamp(until, zone).date() + 2 * _ONE_DAY
    while day <= last:
        yield day
        day += _ONE_DAY


def window_days(names: Sequence[str]) -> frozenset[int]:
    """`mon`, `mon-fri`, `fri-mon` (over the week's end). ValueError names what is no day."""
    days: set[int] = set()
    for name in names:
        first, dash, last = name.strip().lower().partition("-")
        for one in (first, last) if dash else (first,):
            if one not in DAY_NAMES:
                raise ValueError(f"{name!r} is no day: write mon, tue, wed, thu, fri, sat, sun, or a range as mon-fri")
        start = DAY_NAMES.index(first)
        span = (DAY_NAMES.index(last) - start) % 7 if dash else 0
        days.update((start + offset) % 7 for offset in range(span + 1))
    return frozenset(days)
