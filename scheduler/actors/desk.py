"""What this scheduler has in flight on one engine, and whether it may send more."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from engine.protocol import Engine, EngineLimits
from scheduler import metrics
from scheduler.actors.held import Line
from scheduler.policy.packer import Budget, Inflight, budget_of, fits
from scheduler.settings import SchedulerSettings


@dataclass(slots=True, eq=False)
class Isolation:
    """Groups of suspects that run here, one after another, each with nothing else in flight.

    `waiting` are the lines of the group being run that did not fit yet; `running` says that there is such a group.
    """

    groups: deque[list[Line]] = field(default_factory=deque)
    waiting: deque[Line] = field(default_factory=deque)
    running: bool = False
    gone_since: float | None = None
    """Monotonic time since when the engine has not been ready."""

    @property
    def is_over(self) -> bool:
        return not self.running and not self.groups


class Desk:
    def __init__(self, engine: Engine, settings: SchedulerSettings) -> None:
        self.engine = engine
        self.inflight = Inflight()
        self.isolation: Isolation | None = None
        self.rest_until = 0.0
        self._settings = settings
        self._refusals = 0
        self._limits: EngineLimits | None = None
        self._budget = Budget(1, None)
        self._by_incarnation: dict[int, int] = {}
        self._died: dict[int, list[Line]] = {}
        self._requests_gauge = metrics.INFLIGHT_REQUESTS.labels(engine.name)
        self._tokens_gauge = metrics.INFLIGHT_TOKENS.labels(engine.name)

    def budget(self) -> Budget:
        limits = self.engine.limits()
        if limits is not self._limits:
            self._limits = limits
            self._budget = budget_of(
                limits,
                requests_multiple=self._settings.inflight_requests_multiple,
                tokens_multiple=self._settings.inflight_tokens_multiple,
            )
        return self._budget

    def has_room(self, line: Line) -> bool:
        return fits(self.budget(), self.inflight, line.cost)

    def take(self, line: Line) -> int:
        """Count a line as in flight; the incarnation of the engine that it goes to."""
        self.inflight.take(line.cost)
        incarnation = self.engine.status().incarnation
        self._by_incarnation[incarnation] = self._by_incarnation.get(incarnation, 0) + 1
        return incarnation

    def give_back(self, line: Line, incarnation: int, *, died: bool) -> list[Line]:
        """The line has come back. Returns all lines of a death once the last one in flight with it is back.

        Until then the dead lines stay here: who was in flight together is known only at the end.
        """
        self.inflight.give_back(line.cost)
        left = self._by_incarnation[incarnation] - 1
        if died:
            self._died.setdefault(incarnation, []).append(line)
        if left:
            self._by_incarnation[incarnation] = left
            return []
        del self._by_incarnation[incarnation]
        return self._died.pop(incarnation, [])

    def answered(self) -> None:
        self._refusals = 0

    def refused(self, *, now: float, retry_after_seconds: float = 0.0) -> float:
        """The engine took nothing: let it rest, longer each time. Returns for how many seconds."""
        if now >= self.rest_until:  # refusals of requests sent together are one refusal
            self._refusals += 1
        wait = max(self._settings.backoff_seconds(self._refusals), retry_after_seconds)
        wait = min(wait, self._settings.retry_seconds_max)
        self.rest_until = max(self.rest_until, now + wait)
        return wait

    def show(self) -> None:
        self._requests_gauge.set(self.inflight.requests)
        self._tokens_gauge.set(self.inflight.tokens)
