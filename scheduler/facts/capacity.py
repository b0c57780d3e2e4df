"""How much work the engines can do until a given time, in seconds at their off-peak rate."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from scheduler.facts.hours import Hours, open_at, spans
from scheduler.facts.windows import CHUNK_SECONDS, Calendar
from scheduler.facts.work import ModelKey

AHEAD_SECONDS = 5 * CHUNK_SECONDS
"""What the windows give is added up so far ahead (40 days); later times are taken to be like these."""


PEAK_SHARE_ASSUMED = 0.5
"""While no rate has been measured in peak hours."""


class Capacity:
    """From `now` on. An hour inside a window counts whole and an hour of peak time as `peak_share` of one, which is the
    share of the off-peak rate that is left beside online work.

    An engine that is not always there works in its `hours` only, and less by `opening_seconds` each time that they
    begin: it starts then. `starting_seconds` go off hours that have begun already.

    Made once per look at the world; every question is a binary search.
    """

    def __init__(
        self,
        calendar: Calendar,
        *,
        now: float,
        until: float,
        peak_share: float,
        hours: Hours = Hours.ALWAYS,
        opening_seconds: float = 0.0,
        starting_seconds: float = 0.0,
    ) -> None:
        self._now = now
        self._hours = hours
        self._peak_share = peak_share
        end = min(max(until, now + 1.0), now + AHEAD_SECONDS)
        kind = Hours.OFF_PEAK if hours is Hours.ALWAYS else hours
        found = spans(kind, calendar, now, end)
        if hours is not Hours.ALWAYS:
            costs = [starting_seconds if since <= now else opening_seconds for since, _ in found]
            found = [(min(since + cost, to), to) for (since, to), cost in zip(found, costs, strict=True)]
        self._spans = _Spans(found, since=now, until=end)

    def off_peak_seconds(self, until: float) -> float:
        """How much can be done inside the windows until then."""
        return 0.0 if self._hours is Hours.PEAK else self._spans.seconds(until)

    def seconds(self, until: float) -> float:
        """Inside and outside the windows together, in off-peak seconds."""
        inside = self._spans.seconds(until)
        if self._hours is Hours.ALWAYS:
            return inside + self._peak_share * max(0.0, until - self._now - inside)
        return inside if self._hours is Hours.OFF_PEAK else self._peak_share * inside


class _Spans:
    """Some of the time between two instants; later times are taken to hold as much."""

    def __init__(self, found: Sequence[tuple[float, float]], *, since: float, until: float) -> None:
        self._starts = [start for start, _ in found]
        self._ends = [end for _, end in found]
        self._before = list(accumulate((end - start for start, end in found), initial=0.0))
        self._until = until
        self._mean = self._before[-1] / (until - since)

    def seconds(self, until: float) -> float:
        if until > self._until:
            return self._before[-1] + (until - self._until) * self._mean
        place = bisect_right(self._starts, until) - 1
        if place < 0:
            return 0.0
        return self._before[place] + min(until, self._ends[place]) - self._starts[place]


@dataclass(frozen=True, slots=True)
class Served:
    """When a model is there: its hours, how long it takes until it answers when it comes, and whether it answers now.
    Models of one turn group (`turns`) share a device, one at a time."""

    hours: Hours = Hours.ALWAYS
    start_seconds: float = 0.0
    is_ready: bool = True
    turns: str | None = None


ALWAYS_SERVED = Served()


@dataclass(frozen=True, slots=True)
class Supply:
    """Capacities at one look at the world, by the models that are asked for. `served` is by model id; who is not there
    is always served."""

    calendar: Calendar
    now: float
    until: float
    peak_share: float
    served: Mapping[str, Served] = field(default_factory=dict)
    _made: dict[Served, Capacity] = field(default_factory=dict, compare=False, repr=False)

    @property
    def together(self) -> dict[str, str]:
        """Model id -> what it shares in turns with others of the same hours. Models of different hours are judged
        apart: there is no one capacity for both."""
        return {
            model: f"{served.turns} {served.hours}" for model, served in self.served.items() if served.turns is not None
        }

    def of(self, models: Iterable[ModelKey]) -> Capacity:
        """For work on these models. Where they have different hours it is taken to run at any hour."""
        found = {self.served.get(key.id, ALWAYS_SERVED) for key in models} or {ALWAYS_SERVED}
        hours = {one.hours for one in found}
        strictest = Served(
            hours=hours.pop() if len(hours) == 1 else Hours.ALWAYS,
            start_seconds=max(one.start_seconds for one in found),
            is_ready=all(one.is_ready for one in found),
        )
        if strictest not in self._made:
            self._made[strictest] = self._capacity(strictest)
        return self._made[strictest]

    def _capacity(self, served: Served) -> Capacity:
        comes_and_goes = served.hours is not Hours.ALWAYS
        return Capacity(
            self.calendar,
            now=self.now,
            until=self.until,
            peak_share=self.peak_share,
            hours=served.hours,
            opening_seconds=served.start_seconds if comes_and_goes else 0.0,
            starting_seconds=self._starting_seconds(served) if comes_and_goes else 0.0,
        )

    def _starting_seconds(self, served: Served) -> float:
        """What is left of a start is not known: all of it is counted."""
        return 0.0 if served.is_ready or not open_at(served.hours, self.calendar, self.now) else served.start_seconds
