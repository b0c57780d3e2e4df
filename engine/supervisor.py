"""Keeps one engine alive: starts it, notices its death, starts it again after a back-off, names a crash loop.

Also sends it away when its owner says so, and brings it back.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime

from engine.backoff import BLOCKED_BACKOFF, ENGINE_BACKOFF, BackoffPolicy, CrashHistory, delay_seconds
from engine.protocol import (
    BoundsSteps,
    Engine,
    EngineBlocked,
    EngineError,
    EngineLimits,
    EngineLoad,
    EngineMeters,
    EngineRequest,
    EngineResult,
    EngineState,
    EngineStatus,
    EngineUnavailable,
    Metered,
    ModelInfo,
    Sleeper,
)
from engine.registry import Observable
from engine.start_times import StartTimes

log = logging.getLogger(__name__)

BLOCKED_REASON_EVERY = 4
"""Of so many looks at who holds the memory one is told: about every minute."""


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
        monotonic: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
        poll_seconds: float = 0.25,
        blocked_policy: BackoffPolicy = BLOCKED_BACKOFF,
        start_times: StartTimes | None = None,
    ) -> None:
        self.engine = engine
        self._policy = policy
        self._blocked_policy = blocked_policy
        self._start_times = start_times or StartTimes()
        self._now = now
        self._monotonic = monotonic
        self._chance = chance
        self._poll_seconds = poll_seconds
        self._history = CrashHistory()
        self._status = EngineStatus(EngineState.STOPPED, now())
        self._callbacks: list[Callable[[], None]] = []
        self._look = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._stopping = asyncio.Lock()
        self._stops = 0
        self._stopped = asyncio.Event()
        """Set while nobody stops the engine: one that is still leaving is not started again."""

        self._stopped.set()
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

    def meters(self) -> EngineMeters | None:
        return self.engine.meters() if isinstance(self.engine, Metered) else None

    @property
    def bounds_steps(self) -> bool:
        return isinstance(self.engine, BoundsSteps) and self.engine.bounds_steps

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
        async with self._unkept():
            await self.engine.stop(drain_seconds)

    async def leave(self, drain_seconds: float, *, sleep: bool = False) -> None:
        """Take nothing new, let what is in flight finish for at most `drain_seconds`, and give the device back: asleep
        where the engine can, else stopped. Returns when the memory is free; `start` brings the engine back."""
        if self._status.state is not EngineState.AWAY:
            self._set(EngineState.AWAY)
        async with self._unkept():
            if not (sleep and await self._fell_asleep(drain_seconds)):
                await self.engine.stop(drain_seconds)

    async def _fell_asleep(self, drain_seconds: float) -> bool:
        if not isinstance(self.engine, Sleeper) or self.engine.status().state is not EngineState.READY:
            return False
        try:
            await self.engine.sleep(drain_seconds)
        except EngineError as error:
            log.warning("engine %s is stopped, since it cannot sleep: %s", self.name, error)
            return False
        return True

    def explain_absence(self, reason: str, *, back_at: float | None) -> None:
        """What people are told while it is away, and when it is to be started."""
        ready_at = None if back_at is None else back_at + self._start_times.seconds(self.name)
        self._set(EngineState.AWAY, reason=reason, ready_at=ready_at)

    @asynccontextmanager
    async def _unkept(self) -> AsyncIterator[None]:
        """Nobody starts the engine as long as the context lasts, and one at a time stops it."""
        self._stops += 1
        self._stopped.clear()
        keeper, self._keeper = self._keeper, None
        try:
            if keeper is not None:
                keeper.cancel()
                await asyncio.wait({keeper})
            async with self._stopping:
                yield
        finally:
            self._stops -= 1
            if self._stops == 0:
                self._stopped.set()

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
        await self._stopped.wait()
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
        """None when it is ready, else the cause in one line. Waits as long as someone else holds what it needs."""
        self._status = replace(self._status, starts=self._status.starts + 1)
        refusals = 0
        while True:
            try:
                begun_at = self._monotonic()
                await self.engine.start()
            except EngineBlocked as error:
                self._say_blocked(str(error), refusals)
                refusals += 1
                await asyncio.sleep(delay_seconds(self._blocked_policy, refusals, self._chance()))
                continue
            except EngineError as error:
                return str(error) or type(error).__name__
            except Exception as error:  # an engine's fault must not end its keeper
                log.exception("engine %s failed to start", self.name, extra={"engine": self.name})
                return f"{type(error).__name__}: {error}"
            self._start_times.note(self.name, self._monotonic() - begun_at)
            self._status = replace(self._status, incarnation=self._status.incarnation + 1)
            self._set(EngineState.READY)
            return None

    def _say_blocked(self, reason: str, refusals: int) -> None:
        """Figures change with every look, and each new reason is written to the batches that wait for it: not too
        often."""
        if refusals == 0:
            log.warning("engine %s waits: %s", self.name, reason, extra={"engine": self.name})
        if refusals % BLOCKED_REASON_EVERY == 0:
            self._set(EngineState.STARTING, reason=reason)

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

    def _set(
        self,
        state: EngineState,
        *,
        reason: str | None = None,
        since_at: float | None = None,
        ready_at: float | None = None,
    ) -> None:
        before = self._status
        if since_at is None:
            since_at = before.since_at if before.state is state else self._now()
        if state is EngineState.STARTING and reason is None:
            ready_at = self._now() + self._start_times.seconds(self.name)
        self._status = replace(before, state=state, since_at=since_at, reason=reason, ready_at=ready_at)
        if (before.state, before.reason, before.ready_at) != (state, reason, ready_at):
            for callback in self._callbacks:
                callback()
