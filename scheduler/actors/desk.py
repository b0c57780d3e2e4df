"""What this scheduler has in flight on one engine, and whether it may send more."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from engine.protocol import Engine, EngineLimits, ModelKind
from scheduler import metrics
from scheduler.actors.gate import Gate
from scheduler.actors.held import Line
from scheduler.policy.duty import call_requests
from scheduler.policy.kv_share import KvShare
from scheduler.policy.packer import Budget, Inflight, budget_of
from scheduler.policy.taking_back import Credit, Flying, to_take_back
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


class Departure(NamedTuple):
    """A line that went, and until when its prompt is probably read."""

    line: Line
    at: float
    read_at: float


class Desk:
    def __init__(self, engine: Engine, settings: SchedulerSettings, *, monotonic: Callable[[], float]) -> None:
        self.engine = engine
        self.inflight = Inflight()
        self.gate = Gate()
        self.credit = Credit()
        self.kv = KvShare()
        self.tasks: dict[asyncio.Task[None], Departure] = {}
        self.isolation: Isolation | None = None
        self.rest_until = 0.0
        self._settings = settings
        self._monotonic = monotonic
        self._recalled: set[asyncio.Task[None]] = set()
        self._read_at = 0.0
        self._refusals = 0
        self._limits: EngineLimits | None = None
        self._step_ms = 0.0
        self._incarnation = 0
        self._budget = Budget(1, None)
        self._by_incarnation: dict[int, int] = {}
        self._died: dict[int, list[Line]] = {}
        self._requests_gauge = metrics.INFLIGHT_REQUESTS.labels(engine.name)
        self._tokens_gauge = metrics.INFLIGHT_TOKENS.labels(engine.name)
        self._kv_gauge = metrics.KV_SHARE.labels(engine.name)

    def look(self) -> None:
        """What the engine says of itself, once for all lines that go to it in one turn of the event loop."""
        self._step_ms = self.engine.load().step_ms
        self._incarnation = self.engine.status().incarnation
        self.budget()

    def budget(self) -> Budget:
        limits = self.engine.limits()
        if limits is not self._limits and limits != self._limits:
            self._limits = limits
            self._budget = budget_of(
                limits,
                requests_multiple=self._settings.inflight_requests_multiple,
                tokens_multiple=self._settings.inflight_tokens_multiple * self.kv.share,
            )
        return self._budget

    def see_pushed_out(self, pushed_out: int, *, is_ours: bool) -> None:
        """So many requests lost their memory in the engine since its start: less may be in flight, or a little more."""
        before = self.kv.share
        self.kv.see(pushed_out, now=self._monotonic(), is_ours=is_ours)
        if self.kv.share != before:
            self._limits = None  # the budget is worked out anew

    @property
    def pools(self) -> bool:
        """It has no decode steps: all of its models embed, score or rank."""
        models = self.engine.models()
        return bool(models) and all(model.kind is ModelKind.POOLING for model in models)

    def has_room(self, line: Line) -> bool:
        return self.gate.fits(self._budget, self.inflight, line.cost, now=self._monotonic())

    def closed_seconds(self) -> float:
        """For how long nothing goes, whatever there is room for."""
        now = self._monotonic()
        return max(0.0, self.gate.opens_at(self.inflight, now=now) - now, self.rest_until - now)

    def slice_sub_requests_max(self) -> int:
        """So many inputs of one line go together; on an engine without decode steps, as many as one call has time
        for: while it lasts nobody else gets an answer."""
        limit = self._settings.slice_sub_requests_max
        if not self.pools or self.gate.calls.ms_each is None:
            return limit
        step_ms_target = self._settings.throttle.duty.step_ms_target
        return min(limit, call_requests(self.gate.calls.ms_each, step_ms_target=step_ms_target))

    def recall(self) -> int:
        """Cancel what is far above the allowance, as far as the credit goes; how many. Their lines come back by
        `left`."""
        allowed = self.gate.allowance
        cap = allowed.recall_to
        if cap is None or self.isolation is not None:
            return 0
        now, settings = self._monotonic(), self._settings.throttle.take_back
        tasks = [task for task in self.tasks if task not in self._recalled]
        flying = [
            Flying(
                departure.line.cost.requests,
                now - departure.at,
                departure.line.recalls,
                is_reading=allowed.recalls_reading and now < departure.read_at,
            )
            for departure in (self.tasks[task] for task in tasks)
        ]
        places = to_take_back(flying, cap=cap, credit=self.credit, settings=settings)
        for place in places:
            self._recalled.add(tasks[place])
            self.tasks[tasks[place]].line.recalls += 1
            tasks[place].cancel()
        return len(places)

    def departed(self, task: asyncio.Task[None], line: Line) -> None:
        """The line that was just taken goes with this task."""
        self.tasks[task] = Departure(line, self._monotonic(), self._read_at)

    def left(self, task: asyncio.Task[None]) -> bool:
        """The task has ended; whether its line is to go back to the queue, because it was recalled."""
        self.tasks.pop(task, None)
        was_recalled = task in self._recalled
        self._recalled.discard(task)
        return was_recalled and task.cancelled()

    def take(self, line: Line) -> int:
        """Count a line as in flight; the incarnation of the engine that it goes to."""
        self.inflight.take(line.cost)
        self._read_at = self.gate.sent(line.cost, step_ms=self._step_ms, now=self._monotonic())
        incarnation = self._incarnation
        self._by_incarnation[incarnation] = self._by_incarnation.get(incarnation, 0) + 1
        return incarnation

    def give_back(self, line: Line, incarnation: int, *, answered: bool, died: bool) -> list[Line]:
        """The line has come back. Returns all lines of a death once the last one in flight with it is back.

        Until then the dead lines stay here: who was in flight together is known only at the end.
        """
        self.inflight.give_back(line.cost)
        self.gate.ended(line.cost, self.inflight, answered=answered, now=self._monotonic())
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

    def learn(self, line: Line, *, seconds: float, output_tokens: int) -> None:
        self.gate.learn(line.cost, seconds=seconds, output_tokens=output_tokens, step_ms=self._step_ms)

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
        self._kv_gauge.set(self.kv.share)
