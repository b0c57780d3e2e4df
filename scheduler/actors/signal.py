"""Looks at the outside signal every so often, and says whether batch work should wait for it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from scheduler import metrics
from scheduler.actors.signal_sources import Source
from scheduler.policy.outside_signal import (
    SignalRules,
    SignalState,
    Unreadable,
    failed,
    judge,
    seen,
    told,
    wait_reason,
)

log = logging.getLogger(__name__)


class Signal:
    """Until the first look, and when it cannot be read for `stale_after_seconds`, it is not known."""

    def __init__(self, rules: SignalRules, source: Source, *, every_seconds: float, now: Callable[[], float]) -> None:
        self.every_seconds = every_seconds
        self._rules = rules
        self._source = source
        self._now = now
        self._state = SignalState()

    @property
    def state(self) -> SignalState:
        return self._state

    def reason(self) -> str | None:
        """Why batch work waits now, without a full stop; None when it need not."""
        return wait_reason(self._state, self._rules, self._now())

    def told(self) -> str:
        return told(self._state, self._rules, self._now())

    async def watch(self) -> bool:
        """Look, and log what has changed by it; whether the answer of `reason` has."""
        before, problem_before = self.reason(), self._state.problem
        await self.look()
        after = self.reason()
        metrics.SIGNAL_HOLDS.set(after is not None)
        self._log(problem_before, (before is None) != (after is None))
        return before != after

    async def look(self) -> None:
        """Read it once. What goes wrong is part of the state."""
        try:
            text = await self._source.read()
            verdict = judge(text, self._rules.condition, was_busy=self._state.held is not None)
        except Unreadable as error:
            self._state = failed(self._state, str(error))
            metrics.SIGNAL_FAILURES.inc()
        else:
            self._state = seen(self._state, verdict, self._now())

    async def close(self) -> None:
        await self._source.close()

    def _log(self, problem_before: str | None, changed: bool) -> None:
        if self._state.problem is not None and problem_before is None:
            log.warning("the outside signal cannot be read: %s", self._state.problem)
        elif changed or (problem_before is not None and self._state.problem is None):
            log.info("%s", self.told())
