"""Somebody else's model server as an engine: any OpenAI-compatible URL."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http import HTTPStatus

import aiohttp

from engine.answers import error_result
from engine.bodies import InvalidBody, prepare_body
from engine.protocol import (
    EngineLimits,
    EngineLoad,
    EngineRequest,
    EngineResult,
    EngineStartError,
    EngineState,
    EngineStatus,
    EngineUnavailable,
    ModelInfo,
    ModelKind,
    StreamRejected,
)
from engine.remote.discovery import UnreadableModels, learn_models, needs_paths, read_models, read_paths
from engine.remote.outcomes import KEY_STATUSES, SUSPICIOUS_STATUSES, judge
from engine.remote.settings import RemoteLimits
from engine.remote.upstream import CLIENT_ERRORS, AnswerTooLong, ProbeFailed, Upstream, frames_of, unavailable
from engine.remote.upstream_load import UpstreamLoad, read_load
from engine.status import InFlight, StatusBoard

log = logging.getLogger(__name__)


class InvalidRequest(Exception):
    """The request is refused before it is sent; `result` is the refusal."""

    def __init__(self, result: EngineResult) -> None:
        super().__init__(result.status_code)
        self.result = result


class RemoteEngine:
    """`models` allows only these ids; `kind` and `revisions` say what the upstream does not. With `send_priority` the
    body carries vLLM's `priority` (an upstream under `--scheduling-policy priority`; others may refuse the field).

    It is dead from a failed probe on, and `start` is the way back; keep it in Supervised.
    """

    def __init__(
        self,
        name: str,
        url: str,
        *,
        api_key: str | None = None,
        models: Collection[str] | None = None,
        kind: ModelKind | None = None,
        revisions: Mapping[str, str] | None = None,
        send_priority: bool = False,
        limits: RemoteLimits = RemoteLimits(),  # noqa: B008 (frozen)
        now: Callable[[], float] = time.time,
    ) -> None:
        self._name = name
        self._url = url
        self._api_key = api_key
        self._allowed = models
        self._kind = kind
        self._revisions = revisions
        self._send_priority = send_priority
        self._limits = limits
        self._models: tuple[ModelInfo, ...] = ()
        self._known_ids: set[str] = set()
        self._paths: frozenset[str] | None = None
        self._board = StatusBoard(now)
        self._upstream: Upstream | None = None
        self._prober: asyncio.Task[None] | None = None
        self._meter: asyncio.Task[None] | None = None
        self._load = UpstreamLoad()
        self._suspect = asyncio.Event()
        self._inflight = InFlight()
        self._draining = False

    @property
    def name(self) -> str:
        return self._name

    def models(self) -> Sequence[ModelInfo]:
        """What the upstream listed last; empty before it was reached."""
        return self._models

    def limits(self) -> EngineLimits:
        return EngineLimits(self._limits.inflight_requests_max, body_bytes_max=self._limits.body_bytes_max)

    def status(self) -> EngineStatus:
        return self._board.current

    def load(self) -> EngineLoad:
        return self._load.load(self._inflight.sequences)

    def on_change(self, callback: Callable[[], None]) -> None:
        self._board.on_change(callback)

    async def start(self) -> None:
        if self._board.shows(EngineState.STARTING, EngineState.READY):
            return
        self._board.change(EngineState.STARTING)
        await self._end_tasks()
        await self._disconnect()
        upstream = Upstream(self._url, self._api_key, self._limits)
        try:
            self._models = await self._learn(upstream)
        except (ProbeFailed, UnreadableModels) as error:
            await self._fail_start(upstream, str(error))
        except BaseException:
            await upstream.close()
            self._board.change(EngineState.STOPPED)
            raise
        if not self._models:
            offered = f"none of the allowed models ({', '.join(sorted(self._allowed or ()))})"
            await self._fail_start(upstream, f"{upstream.root} serves {offered if self._allowed else 'no model'}")
        if not self._board.shows(EngineState.STARTING):
            await self._fail_start(upstream, "stopped while starting")
        self._upstream = upstream
        self._draining = False
        self._suspect.clear()
        self._prober = asyncio.create_task(self._probe_on(upstream), name=f"probe upstream {self._name}")
        self._meter = asyncio.create_task(self._measure_on(upstream), name=f"measure upstream {self._name}")
        self._board.change(EngineState.READY)

    async def stop(self, drain_seconds: float = 0.0) -> None:
        self._draining = True
        await self._inflight.drain(drain_seconds)
        self._board.change(EngineState.STOPPED)
        await self._end_tasks()
        await self._disconnect()

    async def generate(self, request: EngineRequest) -> EngineResult:
        upstream = self._open()
        try:
            body = self._prepare(request)
        except InvalidRequest as refused:
            return refused.result
        with self._inflight.counted(request.sub_requests), self._translated(upstream):
            status_code, headers, answer = await upstream.post(request.endpoint, body)
        return await self._judge(upstream, request, status_code, headers, answer)

    async def stream(self, request: EngineRequest) -> AsyncIterator[bytes]:
        upstream = self._open()
        try:
            body = self._prepare(request, stream=True)
        except InvalidRequest as refused:
            raise StreamRejected(refused.result) from None
        with self._inflight.counted(request.sub_requests), self._translated(upstream):
            async with upstream.open_stream(request.endpoint, body) as response:
                if response.status == HTTPStatus.OK:
                    async for frame in frames_of(response, self._limits.frame_bytes_max):
                        yield frame
                    return
                answer = await response.read()
        raise StreamRejected(await self._judge(upstream, request, response.status, response.headers, answer))

    async def metrics(self) -> str:
        if self._upstream is None:
            return ""
        try:
            return await self._upstream.metrics()
        except (aiohttp.ClientError, OSError, TimeoutError, UnicodeDecodeError):
            return ""  # metrics are a courtesy; whether the upstream is well is the probe's business

    def _prepare(self, request: EngineRequest, *, stream: bool = False) -> bytes:
        if request.model not in self._known_ids:
            message = f"The model `{request.model}` does not exist."
            raise InvalidRequest(error_result(HTTPStatus.NOT_FOUND, message, code="model_not_found", param="model"))
        self._check_listed(request.model)
        priority = request.priority if self._send_priority else None
        try:
            return prepare_body(
                request.body, model=request.model, endpoint=request.endpoint, priority=priority, stream=stream
            )
        except InvalidBody as error:
            raise InvalidRequest(error_result(HTTPStatus.BAD_REQUEST, str(error), param=error.param)) from None

    def _check_listed(self, model_id: str) -> None:
        """A model that went away is an outage of the upstream, not a mistake of the client."""
        if all(model.id != model_id for model in self._models):
            raise EngineUnavailable(f"upstream {self._name} no longer serves model '{model_id}'")

    def _open(self) -> Upstream:
        if self._upstream is None or self._board.state is not EngineState.READY or self._draining:
            what = "stopping" if self._draining else self._board.state.value
            raise EngineUnavailable(f"upstream {self._name} is {what}")
        return self._upstream

    @contextmanager
    def _translated(self, upstream: Upstream) -> Iterator[None]:
        try:
            yield
        except CLIENT_ERRORS as error:
            if not isinstance(error, AnswerTooLong):
                self._suspect.set()
            raise unavailable(error, f"upstream {self._name} at {upstream.root}", stopping=self._draining) from None

    async def _judge(
        self, upstream: Upstream, request: EngineRequest, status_code: int, headers: Mapping[str, str], answer: bytes
    ) -> EngineResult:
        if status_code in SUSPICIOUS_STATUSES:
            await self._look_again(upstream, request, status_code)
        if status_code in KEY_STATUSES:  # every other request would meet the same
            reason = f"upstream {self._name} refuses our API key ({status_code}): set api_key to one it knows"
            self._board.change(EngineState.STOPPED, reason=reason)
            raise EngineUnavailable(reason)
        return judge(self._name, request.endpoint, status_code, headers, answer)

    async def _look_again(self, upstream: Upstream, request: EngineRequest, status_code: int) -> None:
        """Is it the request or the upstream? What a sick upstream said is no answer."""
        try:
            self._models = await self._learn(upstream)
        except (ProbeFailed, UnreadableModels) as error:
            self._suspect.set()
            died = status_code == HTTPStatus.INTERNAL_SERVER_ERROR
            raise EngineUnavailable(f"upstream {self._name} answered {status_code}, then: {error}", died=died) from None
        self._check_listed(request.model)

    async def _learn(self, upstream: Upstream) -> tuple[ModelInfo, ...]:
        listed = read_models(await upstream.probe())
        if needs_paths(listed, self._kind) and self._paths is None:
            self._paths = read_paths(await upstream.openapi())
        learnt = learn_models(
            listed, paths=self._paths or (), kind=self._kind, allowed=self._allowed, revisions=self._revisions
        )
        self._known_ids.update(model.id for model in learnt)
        return learnt

    async def _probe_on(self, upstream: Upstream) -> None:
        """Until the upstream is dead: a probe every few seconds, and at once when a request met trouble."""
        failures = 0
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._limits.probe_every_seconds):
                    await self._suspect.wait()
            self._suspect.clear()
            try:
                self._models = await self._learn(upstream) or self._models
                failures = 0
            except ProbeFailed as error:
                failures += 1
                if error.certain or failures >= self._limits.probe_failures_max:
                    self._board.change(EngineState.STOPPED, reason=error.reason)
                    await self._disconnect()
                    return
            except UnreadableModels as error:
                self._board.change(EngineState.STOPPED, reason=str(error))
                await self._disconnect()
                return

    async def _disconnect(self) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            await upstream.close()

    async def _measure_on(self, upstream: Upstream) -> None:
        """Look at the upstream's load until it is dead: others use it too, and batch work yields to them."""
        limits = self._limits
        tells = True
        while True:
            self._inflight.highest = self._inflight.sequences
            try:
                reading = read_load(await upstream.metrics())
            except (*CLIENT_ERRORS, RuntimeError):  # how aiohttp says that the session is closed
                self._load.unseen()
                await asyncio.sleep(limits.probe_every_seconds)
                continue
            if reading is None:
                self._load.unseen()
                if tells:
                    log.info(
                        "upstream %s tells no load at %s/metrics: requests that do not pass through here are not seen",
                        self._name,
                        upstream.root,
                    )
                tells = False
                await asyncio.sleep(limits.metrics_again_seconds)
                continue
            self._load.seen(reading, ours_max=self._inflight.highest)
            is_busy = reading.requests or self._inflight.sequences
            await asyncio.sleep(limits.metrics_every_seconds * (1 if is_busy else 2))

    async def _end_tasks(self) -> None:
        tasks = [task for task in (self._prober, self._meter) if task is not None]
        self._prober = self._meter = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._load.unseen()

    async def _fail_start(self, upstream: Upstream, cause: str) -> None:
        await upstream.close()
        self._board.change(EngineState.STOPPED, reason=cause)
        raise EngineStartError(cause)
