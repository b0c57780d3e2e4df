"""Small calls with rests between them, for engines without decode steps: an embedding call has the device for as long
as it lasts, and nothing takes it back. Pure."""

from __future__ import annotations

from dataclasses import dataclass

WEIGHT = 0.2
"""Weight of the newest measurement in the mean."""

WINDOW_SECONDS = 0.5
"""An engine that is never idle is measured over this long."""

UNMEASURED_REQUESTS = 4
"""A call's size before anything was measured."""


@dataclass(frozen=True, slots=True)
class DutySettings:
    step_ms_target: float = 50.0
    """How long one call beside online requests may take."""
    share_max: float = 0.25
    """The share of the time that calls take beside online requests; the rest is theirs alone."""
    idle_calls_max: int = 4
    """Calls in flight while online requests come now and then but none is there: what comes waits for these."""

    def __post_init__(self) -> None:
        if self.step_ms_target <= 0 or not 0 < self.share_max <= 1 or self.idle_calls_max < 1:
            raise ValueError("step_ms_target must be above 0, share_max in (0, 1], idle_calls_max 1 or more")


@dataclass(frozen=True, slots=True)
class Call:
    """What may be sent as one call: so many sub-requests, then a rest, so that calls take `share` of the time."""

    requests: int
    share: float


def call_requests(ms_each: float | None, *, step_ms_target: float) -> int:
    """Sub-requests that an engine answers in the time of one call."""
    if ms_each is None or ms_each <= 0:
        return UNMEASURED_REQUESTS
    return max(1, int(step_ms_target / ms_each))


@dataclass(slots=True)
class CallMeter:
    """Milliseconds for one sub-request while an engine has several: from when it got something to do until it had
    answered all of it, or for `WINDOW_SECONDS` of that."""

    ms_each: float | None = None
    _since: float | None = None
    _answered: int = 0

    def sent(self, now: float) -> None:
        if self._since is None:
            self._since = now

    def answered(self, requests: int, *, is_idle: bool, now: float) -> None:
        self._answered += max(requests, 1)
        if self._since is None or not (is_idle or now - self._since >= WINDOW_SECONDS):
            return
        seconds = now - self._since
        if seconds > 0:
            measured = seconds * 1000 / self._answered
            self.ms_each = measured if self.ms_each is None else self.ms_each + WEIGHT * (measured - self.ms_each)
        self._since, self._answered = None if is_idle else now, 0

    def forget(self, *, is_idle: bool, now: float) -> None:
        """What was under way says nothing: some of it was cancelled or died."""
        self._since, self._answered = None if is_idle else now, 0


@dataclass(slots=True)
class Rounds:
    """The call that is being made, and the rest after it. A call is filled until its first answer comes."""

    rest_until: float = 0.0
    _began_at: float = 0.0
    _sent: int = 0
    _is_closed: bool = False

    def fits(self, requests: int, call: Call, *, now: float) -> bool:
        """A request larger than a call is one by itself."""
        if self._sent == 0:
            return now >= self.rest_until
        return not self._is_closed and self._sent + requests <= call.requests

    def sent(self, requests: int, *, now: float) -> None:
        if self._sent == 0:
            self._began_at = now
        self._sent += requests

    def ended(self, call: Call | None, *, is_idle: bool, now: float) -> None:
        """A request came back; with the last one the rest begins, unless no bound holds any more."""
        self._is_closed = True
        if call is None:
            self._began_at = now  # what goes without a bound is no call: it may go on for hours without a pause
        if not is_idle:
            return
        if call is not None and self._sent:
            self.rest_until = now + (now - self._began_at) * (1 - call.share) / call.share
        self._sent, self._is_closed = 0, False
