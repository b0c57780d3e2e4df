"""Keeps one engine alive: starts it, notices its death, starts it again after a back-off, names a crash loop."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from datetime import UTC, datetime

from engine.backoff import ENGINE_BACKOFF, BackoffPolicy, CrashHistory, delay_seconds
from engine.protocol import (
    Engine,
    EngineError,
    EngineLimits,
    EngineLoad,
    EngineRequest,
    EngineResult,
    EngineState,
    EngineStatus,
    EngineUnavailable,
    ModelInfo,
)
from engine.registry import Observable

log = logging.getLogger(__name__)


class Supervised:
    """An engine around an engine. `start` returns at once; whether it worked is in `status`.

    The inner engine's status is looked at every `poll_seconds`, and at once when it says that it changed (Observable)
    or when a request dies with it. Incarnations are counted here.
    """

    def __init__(
        self,
        engine: Engine,
        policy: BackoffPolicy = ENGINE_BACKOFF,
        *,
        now: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
        poll_seconds: float = 0.25,
    ) -> None:
        self.engine = engine
        self._policy = policy
        self._now = now
        self._chance = chance
        self._poll_seconds = poll_seconds
        self._history = CrashHistory()
        self._status = EngineStatus(EngineState.STOPPED, now())
        self._callbacks: list[Callable[[], None]] = []
        self._look = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        if isinstance(engine, Observable):
            engine.on_change(self._look.set)

    @property
    def name(self) -> str:
        return self.engine.name

    def models(self) -> Sequence[ModelInfo]:
        return self.engine.models()

    def limits(self) -> EngineLimits:
        return self.engine.limits()

    def load(self) -> EngineLoad:
        return self.engine.load()

    def status(self) -> EngineStatus:
        inner = self.engine.status()
        if self._status.state is EngineState.READY and inner.state is not EngineState.READY:
            self._look.set()
            return replace(self._status, state=EngineState.RESTARTING, since_at=inner.since_at, reason=inner.reason)
        return self._status

    def on_change(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    async def start(self) -> None:
        if self._keeper is None or self._keeper.done():
            self._set(EngineState.STARTING)
            self._keeper = asyncio.create_task(self._keep(), name=f"keep engine {self.name}")

    async def stop(self, drain_seconds: float = 0.0) -> None:
        self._set(EngineState.STOPPED)
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait({keeper})
        await self.engine.stop(drain_seconds)

    async def generate(self, request: EngineRequest) -> EngineResult:
        self._check_ready()
        try:
            return await self.engine.generate(request)
        except EngineUnavailable:
            self._look.set()
            raise

    async def stream(self, request: EngineRequest) -> AsyncIterator[bytes]:
        self._check_ready()
        frames = self.engine.stream(request)
        try:
            async with aclosing(frames):  # type: ignore[type-var]  # every engine's stream is a generator
                async for frame in frames:
                    yield frame
        except EngineUnavailable:
            self._look.set()
            raise

    async def metrics(self) -> str:
        return await self.engine.metrics() if self.status().state is EngineState.READY else ""

    def _check_ready(self) -> None:
        status = self.status()
        if status.state is not EngineState.READY:
            reason = f": {status.reason}" if status.reason else ""
            raise EngineUnavailable(f"engine {self.name} is {status.state}{reason}")

    async def _keep(self) -> None:
        """Start, watch, wait, and again, until cancelled."""
        last_cause = None
        while True:
            cause = await self._start_engine()
            if cause is None:
                cause = await self._watch_until_dead()
                log.error("engine %s died: %s", self.name, cause, extra={"engine": self.name})
            elif cause != last_cause:  # an outage of a night is one line, not thousands
                log.error("engine %s could not start: %s", self.name, cause, extra={"engine": self.name})
            self._record_death(cause)
            last_cause = cause
            wait_seconds = delay_seconds(self._policy, len(self._history.deaths_at), self._chance())
            await asyncio.sleep(wait_seconds)

    async def _start_engine(self) -> str | None:
        """None when it is ready, else the cause in one line."""
        self._status = replace(self._status, starts=self._status.starts + 1)
        try:
            await self.engine.start()
        except EngineError as error:
            return str(error) or type(error).__name__
        except Exception as error:  # an engine's fault must not end its keeper
            log.exception("engine %s failed to start", self.name, extra={"engine": self.name})
            return f"{type(error).__name__}: {error}"
        self._status = replace(self._status, incarnation=self._status.incarnation + 1)
        self._set(EngineState.READY)
        return None

    async def _watch_until_dead(self) -> str:
        while self.engine.status().state is EngineState.READY:
            self._look.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._poll_seconds):
                    await self._look.wait()
        return self.engine.status().reason or "it ended without saying why"

    def _record_death(self, cause: str) -> None:
        at = self._now()
        self._history = self._history.after_death(at, self._policy)
        since_at = at if self._status.state is EngineState.READY else self._status.since_at
        if not self._history.is_crash_loop(self._policy):
            self._set(EngineState.RESTARTING, reason=cause, since_at=since_at)
            return
        clock = datetime.fromtimestamp(since_at, UTC).astimezone().strftime("%H:%M")
        reason = f"down since {clock}, {self._history.streak} starts, last cause: {cause}"
        self._set(EngineState.DOWN, reason=reason, since_at=since_at)

    def _set(self, state: EngineState, *, reason: str | None = None, since_at: float | None = None) -> None:
        before = self._status
        if since_at is None:
            since_at = before.since_at if before.state is state else self._now()
        self._status = replace(before, state=state, since_at=since_at, reason=reason)
        if (before.state, before.reason) != (state, reason):
            for callback in self._callbacks:
                callback()
