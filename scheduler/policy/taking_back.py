"""Which batch requests are taken back from an engine when an online request comes. Pure.

A request that is taken back starts anew: its prompt is mostly in the engine's prefix cache, what it had generated is
lost. Left alone, 60 requests with 100 tokens to go slow every online token for ten seconds, and an online prompt waits
for every prompt that is being read. So these and the youngest are taken back, and only as much work as a small share of
all work pays for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TakeBackSettings:
    above: float = 2.0
    """Nothing is taken back while less than this many times the bound is in flight: it ends by itself soon."""
    share_max: float = 0.05
    """The part of all work that may be lost in this way; 0 takes nothing back."""
    credit_seconds_max: float = 600.0
    """Request-seconds of work that can be saved up to be lost at once."""
    per_line_max: int = 3
    """Times one line is taken back; then it runs to its end."""

    def __post_init__(self) -> None:
        if self.above < 1 or not 0 <= self.share_max < 1 or self.credit_seconds_max < 0 or self.per_line_max < 0:
            raise ValueError("above must be 1 or more, share_max in [0, 1), the others not negative")


@dataclass(frozen=True, slots=True)
class Flying:
    """A request in flight: its sub-requests, for how long, how often its line was taken back before, and whether its
    prompt is probably still being read."""

    requests: int
    seconds: float
    taken_back: int = 0
    is_reading: bool = False


@dataclass(slots=True)
class Credit:
    """Request-seconds of work that may be lost."""

    seconds: float = 0.0

    def earn(self, inflight: int, seconds: float, settings: TakeBackSettings) -> None:
        earned = self.seconds + settings.share_max * inflight * max(0.0, seconds)
        self.seconds = min(earned, settings.credit_seconds_max)


def to_take_back(flying: Sequence[Flying], *, cap: int, credit: Credit, settings: TakeBackSettings) -> list[int]:
    """Places in `flying`, until `cap` is kept or the credit is spent (it is taken from `credit`).

    First what is still being read, however little is in flight: an online prompt would wait for it, and it has
    generated nothing yet. Then, far above the bound, the youngest.
    """
    inflight = sum(one.requests for one in flying)
    is_far_above = inflight > settings.above * cap
    taken = []
    for place in sorted(range(len(flying)), key=lambda place: (not flying[place].is_reading, flying[place].seconds)):
        one = flying[place]
        cost = one.requests * one.seconds
        if cost > credit.seconds or not (one.is_reading or (is_far_above and inflight > cap)):
            break
        if one.taken_back >= settings.per_line_max or (not one.is_reading and inflight - one.requests < cap):
            continue
        credit.seconds -= cost
        inflight -= one.requests
        taken.append(place)
    return taken
