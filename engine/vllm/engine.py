"""The engine that the rest of Nightbatch sees: a client of its host process. Imports no vllm."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from engine import embedded
from engine.answers import error_result
from engine.holders import rooms, shortage
from engine.memory import CUDA_ASLEEP_BYTES
from engine.protocol import (
    GENERATE_ENDPOINTS,
    EngineBlocked,
    EngineLimits,
    EngineLoad,
    EngineMeters,
    EngineOverloaded,
    EngineRequest,
    EngineResult,
    EngineStartError,
    EngineState,
    EngineStatus,
    EngineUnavailable,
    ModelInfo,
    StreamRejected,
)
from engine.vllm import launch, source
from engine.vllm.arguments import UnknownArgument, adapters, check_ours, to_flags
from engine.vllm.connection import HOST_COMMAND, HostConnection
from engine.vllm.frames import Launch, Ready
from engine.vllm.online_first.link import Link
from engine.vllm.pace import silence_seconds_max
from engine.vllm.source import ModelSource, SourceError
from engine.vllm.spec import VllmSpec

QUEUE_FACTOR = 1.5
"""In flight per sequence slot: the engine's own queue is never empty, and not so long that an answer comes late."""

POOLING_QUEUE_FACTOR = 2.0
"""... of an engine without decode steps: whole steps end at once, and the next must be there already."""

OVERLOAD_FACTOR = 4
"""Asks beyond this many times the limit are refused: the caller does not keep its bound."""

INFLIGHT_BEFORE_READY = 64
WATCH_SECONDS = 1.0


log = logging.getLogger(__name__)


def _log_progress(engine: str, share: float, what: str) -> None:
    log.info("engine %s: preparing the model: %s (%.0f %%)", engine, what, share * 100)


def _unknown_model(model: str) -> EngineResult:
    return error_result(404, f"The model `{model}` does not exist.", code="model_not_found", param="model")


class VllmEngine:
    """One model on one host process. `start` may be called again after a death or a stop."""

    def __init__(
        self,
        spec: VllmSpec,
        *,
        folder: Path,
        now: Callable[[], float] = time.time,
        progress: Callable[[str, float, str], None] = _log_progress,
        host_command: Sequence[str] = HOST_COMMAND,
    ) -> None:
        """`folder` is the data folder's `engines`. `progress` hears, on a thread, how far preparing a default model is:
        the engine's name, the share done, what is being done."""
        self._spec = spec
        self._folder = folder
        self._now = now
        self._served = (spec.model_id, *adapters(to_flags(spec.engine_args)))
        self._progress = progress
        self._host_command = host_command
        self._callbacks: list[Callable[[], None]] = []
        self._source: ModelSource | None = None
        self._source_error: str | None = None
        self._facts: Ready | None = None
        self._connection: HostConnection | None = None
        self._asleep: HostConnection | None = None
        self._watching: asyncio.Task[None] | None = None
        self._starting: asyncio.Task[None] | None = None
        self._inflight = 0
        self.online_first = Link(spec.name, folder / f"{spec.name}.channel", spec.slo) if spec.online_first else None
        self._status = EngineStatus(EngineState.STOPPED, now())
        self._inspect()

    @property
    def name(self) -> str:
        return self._spec.name

    def models(self) -> Sequence[ModelInfo]:
        """The model and its adapters. Empty as long as a hub id has never been downloaded: it has no revision yet."""
        found = self._source
        if found is None or found.revision is None:
            return ()
        kind = self._spec.kind or source.kind_of(found.config)
        endpoints = source.endpoints_of(kind, found.config)
        context = source.context_tokens(found.config)
        if self._facts is not None:
            endpoints, context = frozenset(self._facts.endpoints), self._facts.context_tokens_max
        width = source.dimensions(found.config, endpoints)
        return tuple(
            ModelInfo(model, found.revision, kind, endpoints, context, found.created_at, dimensions=width)
            for model in self._served
        )

    def limits(self) -> EngineLimits:
        facts = self._facts
        if facts is None:
            return EngineLimits(INFLIGHT_BEFORE_READY)
        generates = not GENERATE_ENDPOINTS.isdisjoint(facts.endpoints)
        return EngineLimits(
            int(facts.sequences_max * (QUEUE_FACTOR if generates else POOLING_QUEUE_FACTOR)),
            facts.kv_tokens if generates else None,
            slots=facts.sequences_max,
        )

    def status(self) -> EngineStatus:
        return self._status

    def load(self) -> EngineLoad:
        connection = self._connection
        if connection is None:
            return EngineLoad()
        pulse = connection.pulse
        return EngineLoad(pulse.running, pulse.waiting, pulse.kv_use, pulse.step_ms)

    def meters(self) -> EngineMeters | None:
        connection = self._connection
        if connection is None:
            return None
        pulse = connection.pulse
        return EngineMeters(
            pulse.busy_seconds, pulse.running_seconds, pulse.pushed_out, pulse.front_cpu_seconds, pulse.answers
        )

    @property
    def bounds_steps(self) -> bool:
        return self.online_first is not None and self.online_first.is_active

    def on_change(self, callback: Callable[[], None]) -> None:
        """`callback` runs on the event loop at every change of `status`."""
        self._callbacks.append(callback)

    async def start(self) -> None:
        """Returns when the engine is ready; raises EngineStartError with the root cause in one line."""
        if self._status.state is EngineState.READY:
            return
        starting = self._starting
        if starting is None:
            starting = self._starting = asyncio.create_task(self._start(), name=f"start {self.name}")
            starting.add_done_callback(self._started)
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            if starting.cancelled():
                raise EngineStartError(f"engine {self.name} was stopped while it started") from None
            await self._abandon_start()
            raise

    def _started(self, task: asyncio.Task[None]) -> None:
        self._starting = None
        if not task.cancelled():
            task.exception()  # seen by whoever awaits `start`

    async def _abandon_start(self) -> None:
        if (starting := self._starting) is not None:
            starting.cancel()
            await asyncio.wait({starting})

    async def _start(self) -> None:
        self._set(EngineState.STARTING, starts=self._status.starts + 1)
        try:
            woken = await self._woken()
            self._connection = woken or await self._open()
        except asyncio.CancelledError:
            self._set(EngineState.STOPPED, reason="stopped while it started")
            raise
        except EngineStartError as error:
            self._set(EngineState.DOWN, reason=str(error))
            raise
        self._facts = self._connection.ready
        if woken is None:  # else its watch has never ended
            self._watching = asyncio.create_task(self._watch(self._connection), name=f"watch {self.name}")
        self._set(EngineState.READY, incarnation=self._status.incarnation + 1)
        if self._source is not None and self._source.revision is None:
            await asyncio.to_thread(self._inspect)

    async def _woken(self) -> HostConnection | None:
        """The host that sleeps, awake again; None when there is none, or it does not wake and is gone."""
        if self._asleep is None:
            return None
        await asyncio.to_thread(self._check_room, held_bytes=CUDA_ASLEEP_BYTES)
        connection, self._asleep = self._asleep, None
        if connection is None:
            return None
        if connection.gone.is_set():
            await connection.kill()
            return None
        try:
            await connection.wake()
        except EngineUnavailable as error:
            log.warning("engine %s is started anew, since it did not wake: %s", self.name, error)
            await connection.kill(str(error))
            return None
        except asyncio.CancelledError:
            await connection.kill("stopped while it woke")
            raise
        return connection

    def _check_room(self, held_bytes: int = 0) -> None:
        """Blocks. Raises EngineBlocked when the memory that was planned for this engine is held by someone else;
        `held_bytes` of it the engine holds already."""
        spec = self._spec
        if spec.memory_bytes is not None:
            need_bytes = max(0, spec.memory_bytes - held_bytes)
            short = shortage(self.name, need_bytes, rooms(spec.device, spec.devices))
            if short is not None:
                raise EngineBlocked(short)

    async def _open(self) -> HostConnection:
        await asyncio.to_thread(self._check_room)
        await asyncio.to_thread(self._inspect)
        if self._source is None:
            raise EngineStartError(self._source_error or f"{self._spec.source}: no such model")
        spec, local = self._spec, self._source.local
        try:
            check_ours(spec.engine_args)
        except UnknownArgument as error:
            raise EngineStartError(str(error)) from None
        channel = None if self.online_first is None else await asyncio.to_thread(self.online_first.open)
        flags = launch.flags(spec, spec.kind or source.kind_of(self._source.config), channel=channel)
        environment = launch.environment(spec, self._folder, os.environ, launch.preloads(), local=local)
        model = str(await self._prepared(self._source)) if local else spec.source
        order = Launch(spec.name, spec.model_id, model, flags)
        return await HostConnection.open(
            order,
            folder=self._folder,
            environment=environment,
            seconds_max=spec.start_seconds_max,
            command=self._host_command,
        )

    async def _prepared(self, found: ModelSource) -> Path:
        """The folder of a local model; a default model is converted first."""
        default = embedded.find(found.id)
        if default is None:
            return Path(found.id).expanduser().resolve()

        def report(share: float, what: str) -> None:
            self._progress(self.name, share, what)

        try:
            return await asyncio.to_thread(embedded.prepare, default, report)
        except embedded.EmbeddedError as error:
            raise EngineStartError(str(error)) from None

    def _inspect(self) -> None:
        try:
            self._source, self._source_error = source.inspect(self._spec.source), None
        except SourceError as error:
            self._source, self._source_error = None, str(error)

    async def _watch(self, connection: HostConnection) -> None:
        """Until the host is gone. A silence with requests in flight is a death too: the host is killed."""
        while not connection.gone.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WATCH_SECONDS):
                    await connection.gone.wait()
            if self.online_first is not None and (warning := self.online_first.broken_promise()) is not None:
                log.warning("%s", warning, extra={"engine": self.name})
            silent = time.monotonic() - connection.moved_at
            if connection.inflight and silent > silence_seconds_max(connection.pulse.step_ms_max):
                await connection.kill(f"no engine step finished for {silent:.0f} s with requests in flight")
        if self._asleep is connection:
            self._asleep = None
            await connection.kill()
        elif self._connection is connection:
            self._connection = None
            self._set(EngineState.STOPPED, reason=connection.reason)
            await connection.kill()
            self._set(EngineState.STOPPED, reason=connection.reason)

    async def sleep(self, drain_seconds: float = 0.0) -> None:
        """Drain, then give the device's memory back and stay (engine.protocol.Sleeper)."""
        connection, level = self._connection, self._spec.sleep_level
        if connection is None or level is None:
            raise EngineUnavailable(f"engine {self.name} is not one that sleeps")
        self._connection = None
        self._set(EngineState.STOPPED, reason="asleep")
        try:
            await connection.sleep(drain_seconds, level)
        except BaseException:
            self._connection = connection  # for `stop`, which ends it
            raise
        self._asleep = connection

    async def stop(self, drain_seconds: float = 0.0) -> None:
        await self._abandon_start()
        connection, self._connection = self._connection or self._asleep, None
        self._asleep = None
        if connection is not None:
            self._set(EngineState.STOPPED, reason="stopped")
            await connection.stop(drain_seconds)
        if self._watching is not None:
            await asyncio.wait({self._watching})
            self._watching = None
        self._set(EngineState.STOPPED, reason=self._status.reason)

    async def generate(self, request: EngineRequest) -> EngineResult:
        connection = self._ready(request)
        if request.model not in self._served:
            return _unknown_model(request.model)
        self._inflight += request.sub_requests
        try:
            return await connection.ask(request)
        finally:
            self._inflight -= request.sub_requests

    async def stream(self, request: EngineRequest) -> AsyncIterator[bytes]:
        connection = self._ready(request)
        if request.model not in self._served:
            raise StreamRejected(_unknown_model(request.model))
        self._inflight += request.sub_requests
        events = connection.stream(request)
        try:
            async with contextlib.aclosing(events):
                async for event in events:
                    if isinstance(event, EngineResult):
                        raise StreamRejected(event)
                    yield event
        finally:
            self._inflight -= request.sub_requests

    def _ready(self, request: EngineRequest) -> HostConnection:
        connection = self._connection
        if connection is None or connection.gone.is_set():
            why = f" ({self._status.reason})" if self._status.reason else ""
            raise EngineUnavailable(f"engine {self.name} is {self._status.state.value}{why}")
        bound = self.limits().inflight_requests_max * OVERLOAD_FACTOR
        if self._inflight and self._inflight + request.sub_requests > bound:
            raise EngineOverloaded(f"engine {self.name}: {self._inflight} requests are in flight of at most {bound}")
        return connection

    async def metrics(self) -> str:
        connection = self._connection
        if connection is None or connection.gone.is_set():
            return ""
        text = await connection.metrics()
        return text if self.online_first is None else text + self.online_first.exposition()

    def _set(
        self,
        state: EngineState,
        *,
        reason: str | None = None,
        incarnation: int | None = None,
        starts: int | None = None,
    ) -> None:
        before = self._status
        since = before.since_at if before.state is state else self._now()
        self._status = EngineStatus(
            state,
            since,
            before.incarnation if incarnation is None else incarnation,
            before.starts if starts is None else starts,
            reason,
        )
        for callback in self._callbacks:
            callback()
