"""Somebody else's model server as an engine: any OpenAI-compatible URL."""

from __future__ import annotations

import asyncio
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
from engine.remote.upstream import AnswerTooLong, ProbeFailed, Upstream, describe, frames_of


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
        self._now = now
        self._models: tuple[ModelInfo, ...] = ()
        self._known_ids: set[str] = set()
        self._paths: frozenset[str] | None = None
        self._status = EngineStatus(EngineState.STOPPED, now())
        self._callbacks: list[Callable[[], None]] = []
        self._upstream: Upstream | None = None
        self._prober: asyncio.Task[None] | None = None
        self._suspect = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._inflight = 0
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
        return self._status

    def load(self) -> EngineLoad:
        return EngineLoad(running=self._inflight)

    def on_change(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    async def start(self) -> None:
        if self._is(EngineState.READY):
            return
        self._change(EngineState.STARTING, starts=self._status.starts + 1)
        await self._end_prober()
        upstream = Upstream(self._url, self._api_key, self._limits)
        try:
            self._models = await self._learn(upstream)
        except (ProbeFailed, UnreadableModels) as error:
            await self._fail_start(upstream, str(error))
        except BaseException:
            await upstream.close()
            raise
        if not self._models:
            offered = f"none of the allowed models ({', '.join(sorted(self._allowed or ()))})"
            await self._fail_start(upstream, f"{upstream.root} serves {offered if self._allowed else 'no model'}")
        if not self._is(EngineState.STARTING):
            await self._fail_start(upstream, "stopped while starting")
        self._upstream = upstream
        self._draining = False
        self._suspect.clear()
        self._prober = asyncio.create_task(self._probe_on(upstream), name=f"probe upstream {self._name}")
        self._change(EngineState.READY, incarnation=self._status.incarnation + 1)

    async def stop(self, drain_seconds: float = 0.0) -> None:
        self._draining = True
        if drain_seconds > 0 and self._is(EngineState.READY):
            with suppress(TimeoutError):  # what is left is broken off below
                async with asyncio.timeout(drain_seconds):
                    await self._idle.wait()
        self._change(EngineState.STOPPED)
        await self._end_prober()
        await self._disconnect()

    async def generate(self, request: EngineRequest) -> EngineResult:
        upstream = self._open()
        try:
            body = self._prepare(request)
        except InvalidRequest as refused:
            return refused.result
        with self._counted(request), self._translated(upstream):
            status_code, headers, answer = await upstream.post(request.endpoint, body)
        return await self._judge(upstream, request, status_code, headers, answer)

    async def stream(self, request: EngineRequest) -> AsyncIterator[bytes]:
        upstream = self._open()
        try:
            body = self._prepare(request, stream=True)
        except InvalidRequest as refused:
            raise StreamRejected(refused.result) from None
        with self._counted(request), self._translated(upstream):
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
            return prepare_body(request.body, model=request.model, priority=priority, stream=stream)
        except InvalidBody as error:
            raise InvalidRequest(error_result(HTTPStatus.BAD_REQUEST, str(error))) from None

    def _check_listed(self, model_id: str) -> None:
        """A model that went away is an outage of the upstream, not a mistake of the client."""
        if all(model.id != model_id for model in self._models):
            raise EngineUnavailable(f"upstream {self._name} no longer serves model '{model_id}'")

    def _open(self) -> Upstream:
        if self._upstream is None or self._status.state is not EngineState.READY or self._draining:
            what = "stopping" if self._draining else self._status.state.value
            raise EngineUnavailable(f"upstream {self._name} is {what}")
        return self._upstream

    @contextmanager
    def _counted(self, request: EngineRequest) -> Iterator[None]:
        self._inflight += request.sub_requests
        self._idle.clear()
        try:
            yield
        finally:
            self._inflight -= request.sub_requests
            if self._inflight == 0:
                self._idle.set()

    @contextmanager
    def _translated(self, upstream: Upstream) -> Iterator[None]:
        """The client's errors as ours. A connection that never stood is no death; one that broke in flight is."""
        try:
            yield
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            self._suspect.set()
            raise EngineUnavailable(f"upstream {self._name} at {upstream.root}: {describe(error)}") from None
        except TimeoutError:
            self._suspect.set()
            seconds = self._limits.request_seconds_max
            raise EngineUnavailable(
                f"upstream {self._name} gave no answer within request_seconds_max ({seconds:g} s)"
            ) from None
        except AnswerTooLong as error:
            raise EngineUnavailable(f"upstream {self._name}: {error}") from None
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not upstream.closed:
                raise
            self._suspect.set()
            stopped = upstream is not self._upstream and self._draining
            raise EngineUnavailable(
                f"upstream {self._name} at {upstream.root}: {describe(error)}", died=not stopped
            ) from None

    async def _judge(
        self, upstream: Upstream, request: EngineRequest, status_code: int, headers: Mapping[str, str], answer: bytes
    ) -> EngineResult:
        if status_code in SUSPICIOUS_STATUSES:
            await self._look_again(upstream, request, status_code)
        if status_code in KEY_STATUSES:  # every other request would meet the same
            reason = f"upstream {self._name} refuses our API key ({status_code}): set api_key to one it knows"
            self._change(EngineState.STOPPED, reason=reason)
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
                    self._change(EngineState.STOPPED, reason=error.reason)
                    await self._disconnect()
                    return
            except UnreadableModels as error:
                self._change(EngineState.STOPPED, reason=str(error))
                await self._disconnect()
                return

    async def _disconnect(self) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            await upstream.close()

    async def _end_prober(self) -> None:
        prober, self._prober = self._prober, None
        if prober is not None:
            prober.cancel()
            await asyncio.gather(prober, return_exceptions=True)

    async def _fail_start(self, upstream: Upstream, cause: str) -> None:
        await upstream.close()
        self._change(EngineState.STOPPED, reason=cause)
        raise EngineStartError(cause)

    def _is(self, state: EngineState) -> bool:
        return self._status.state is state

    def _change(self, state: EngineState, *, reason: str | None = None, **counts: int) -> None:
        counted = {"incarnation": self._status.incarnation, "starts": self._status.starts, **counts}
        since_at = self._status.since_at if self._status.state is state else self._now()
        self._status = EngineStatus(state, since_at, reason=reason, **counted)
        for callback in self._callbacks:
            callback()
