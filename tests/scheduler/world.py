"""A store on disk, engines, and schedulers over them: the scheduler's tests run the real parts together."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from engine.protocol import (
    CHAT_COMPLETIONS,
    Engine,
    EngineLimits,
    EngineLoad,
    EngineRequest,
    EngineResult,
    EngineState,
    EngineStatus,
    EngineUnavailable,
    ModelInfo,
    ModelKind,
    Usage,
)
from engine.registry import Registry
from scheduler import Scheduler, SchedulerSettings
from scheduler.actors.notifier import Target
from scheduler.policy.holding import Hold
from scheduler.policy.terms import Terms
from store import BatchRecord, BatchStatus, FileRecord, NewBatch, OnDeadline, PinnedModel, Store
from store.records import OnInvalidLine, Reuse

SETTINGS = SchedulerSettings(
    tick_seconds=0.05,
    shard_lines_max=16,
    lease_seconds=4.0,
    report_seconds=0.1,
    append_interval_ms=5.0,
    retry_seconds_min=0.01,
    retry_seconds_max=0.1,
    disk_check_seconds=0.05,
    reap_seconds=0.2,
)

PATIENCE_SECONDS = 60.0


def chat(custom_id: str, text: str = "hello", *, model: str = "smol", **body: Any) -> dict[str, Any]:
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": CHAT_COMPLETIONS,
        "body": {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 8, **body},
    }


def chats(count: int) -> list[dict[str, Any]]:
    return [chat(f"row-{no}", f"question {no}") for no in range(count)]


async def poll(holds: Callable[[], Awaitable[bool]]) -> None:
    """Ask again and again, as a client would, until the answer is yes."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await holds():  # noqa: ASYNC110 (the state that is asked for lies in a database)
            await asyncio.sleep(0.01)


class World:
    """A store, the engines, and short ways to put batches in and to read results."""

    def __init__(self, store: Store, registry: Registry, settings: SchedulerSettings) -> None:
        self.store = store
        self.registry = registry
        self.settings = settings
        self._batches = 0

    def count_from(self, batches: int) -> None:
        """The store has so many batches already."""
        self._batches = batches

    async def upload(self, lines: Sequence[dict[str, Any] | bytes], *, expires_at: int | None = None) -> FileRecord:
        raw = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
        upload = await self.store.uploads.begin(indexed=True)
        await upload.write(b"".join(line + b"\n" for line in raw))
        blob = await upload.finish()
        self._batches += 1
        file = FileRecord(
            f"file-{self._batches}", "t", "batch", "in.jsonl", blob.bytes, 0, expires_at, blob.key, blob.summary
        )
        await self.store.files.insert(file)
        return file

    async def batch(
        self,
        lines: Sequence[dict[str, Any] | bytes],
        *,
        endpoint: str = CHAT_COMPLETIONS,
        expires_at: int = 2**33,
        on_deadline: OnDeadline = OnDeadline.EXPIRE,
        output_expires_after_seconds: int | None = None,
        on_invalid_line: OnInvalidLine = OnInvalidLine.FAIL,
        reuse: Reuse = Reuse.OFF,
    ) -> BatchRecord:
        file = await self.upload(lines)
        assert file.summary is not None
        models = {}
        for name in file.summary.models:
            info = self.registry.resolve(name)
            if info is not None:
                models[name] = PinnedModel(info.id, info.revision)
        new = NewBatch(
            id=f"batch_{self._batches}",
            tenant="t",
            endpoint=endpoint,
            input_file_id=file.id,
            completion_window="24h",
            created_at=0,
            expires_at=expires_at,
            on_deadline=on_deadline,
            models=models,
            output_expires_after_seconds=output_expires_after_seconds,
            on_invalid_line=on_invalid_line,
            reuse=reuse,
        )
        return await self.store.batches.create(new)

    def scheduler(
        self,
        *,
        holder: str = "one",
        store: Store | None = None,
        hold: Hold | None = None,
        terms: Terms | None = None,
        targets: Sequence[Target] = (),
        **changed: Any,
    ) -> Scheduler:
        settings = replace(self.settings, **changed)
        return Scheduler(
            store or self.store, self.registry, settings, holder=holder, hold=hold, terms=terms, targets=targets
        )

    async def get(self, batch: BatchRecord) -> BatchRecord:
        found = await self.store.batches.get("t", batch.id)
        assert found is not None
        return found

    async def until(self, batch: BatchRecord, holds: Callable[[BatchRecord], bool]) -> BatchRecord:
        """Ask the store as a client would, until it shows what is waited for."""
        found = [batch]

        async def look() -> bool:
            found[0] = await self.get(batch)
            return holds(found[0])

        await poll(look)
        return found[0]

    async def ended(self, batch: BatchRecord) -> BatchRecord:
        return await self.until(batch, lambda found: found.status.terminal)

    async def cancel(self, batch: BatchRecord) -> BatchRecord | None:
        expected = {BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS, BatchStatus.FINALIZING}
        return await self.store.batches.move(batch.id, expected=expected, to=BatchStatus.CANCELLING, at=1)

    async def lines(self, file_id: str | None) -> list[dict[str, Any]]:
        """The lines of a result file; none when there is no file."""
        if file_id is None:
            return []
        file = await self.store.files.get("t", file_id)
        assert file is not None
        data = b"".join([chunk async for chunk in self.store.blobs.read(file.blob)])
        assert len(data) == file.bytes
        return [json.loads(line) for line in data.splitlines()]

    async def results(self, batch: BatchRecord) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        return await self.lines(batch.output_file_id), await self.lines(batch.error_file_id)


@asynccontextmanager
async def running(*schedulers: Scheduler) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Schedulers at work; whatever the test left running is cancelled at the end."""
    tasks = [asyncio.create_task(scheduler.run()) for scheduler in schedulers]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome


def a_model(name: str = "smol", *, revision: str = "r1", kind: ModelKind = ModelKind.GENERATE) -> ModelInfo:
    return ModelInfo(name, revision, kind, frozenset({CHAT_COMPLETIONS}), 2048, 0)


class TestEngine:
    """An engine that answers at once from the request alone, or holds its answers until it is told.

    Everything else is as a real one: limits, death, refusal, restart, cancellation.
    """

    __test__ = False

    def __init__(
        self,
        name: str = "e",
        *,
        models: Sequence[ModelInfo] = (a_model(),),
        inflight_requests_max: int = 32,
        inflight_tokens_max: int | None = None,
    ) -> None:
        self.name = name
        self._models = models
        self._limits = EngineLimits(inflight_requests_max, inflight_tokens_max)
        self._status = EngineStatus(EngineState.READY, 0.0, incarnation=1)
        self._callbacks: list[Callable[[], None]] = []
        self._gate = asyncio.Event()
        self._gate.set()
        self._waiting: set[asyncio.Future[None]] = set()
        self.poison: bytes | None = None
        self.answer_seconds = 0.0
        self.inflight = 0
        self.inflight_max = 0
        self.asked: list[bytes] = []
        self.alone_deaths = 0
        self.respond: Callable[[EngineRequest], EngineResult] = echo

    def models(self) -> Sequence[ModelInfo]:
        return self._models

    def limits(self) -> EngineLimits:
        return self._limits

    def status(self) -> EngineStatus:
        return self._status

    def load(self) -> EngineLoad:
        return EngineLoad(running=self.inflight)

    def on_change(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    def hold(self) -> None:
        self._gate.clear()

    def let_go(self) -> None:
        self._gate.set()

    def change(self, state: EngineState, reason: str | None = None) -> None:
        born = state is EngineState.READY
        self._status = EngineStatus(state, 0.0, self._status.incarnation + born, 1, reason)
        for callback in self._callbacks:
            callback()

    async def start(self) -> None:
        self.change(EngineState.READY)

    async def stop(self, drain_seconds: float = 0.0) -> None:
        self.change(EngineState.STOPPED, "stopped")
        self._fail_all(died=False)

    def die(self) -> None:
        """Die with everything in flight, and be ready again at once in a new life."""
        self.change(EngineState.RESTARTING, "died")
        if self.inflight == 1:
            self.alone_deaths += 1
        self._fail_all(died=True)
        self.change(EngineState.READY)

    async def generate(self, request: EngineRequest) -> EngineResult:
        if self._status.state is not EngineState.READY:
            raise EngineUnavailable("not ready")
        self.asked.append(request.body)
        self.inflight += request.sub_requests
        self.inflight_max = max(self.inflight, self.inflight_max)
        try:
            await self._work(poisonous=self.poison is not None and self.poison in request.body)
            return self.respond(request)
        finally:
            self.inflight -= request.sub_requests

    async def _work(self, *, poisonous: bool) -> None:
        if poisonous:
            asyncio.get_running_loop().call_later(self.answer_seconds / 2, self.die)
            await self._until_told(asyncio.Event())
        elif self.answer_seconds:
            done = asyncio.Event()
            asyncio.get_running_loop().call_later(self.answer_seconds, done.set)
            await self._until_told(done)
        await self._until_told(self._gate)

    async def _until_told(self, event: asyncio.Event) -> None:
        """Wait for the event, or for the engine's death."""
        if event.is_set():
            return
        failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(failed)
        opened = asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait([opened, failed], return_when=asyncio.FIRST_COMPLETED)
        finally:
            opened.cancel()
            self._waiting.discard(failed)
        if failed.done():
            failed.result()

    async def metrics(self) -> str:
        return ""

    def stream(self, request: EngineRequest) -> AsyncIterator[bytes]:
        raise NotImplementedError("the scheduler never streams")

    def _fail_all(self, *, died: bool) -> None:
        waiting, self._waiting = self._waiting, set()
        for future in waiting:
            if not future.done():
                future.set_exception(EngineUnavailable("engine died", died=died))


def echo(request: EngineRequest) -> EngineResult:
    """The answer is a function of the request's body alone."""
    text = json.loads(request.body)["messages"][0]["content"]
    body = {"object": "chat.completion", "model": request.model, "choices": [{"message": {"content": text.upper()}}]}
    return EngineResult(200, json.dumps(body).encode(), Usage(3, 1, 2))


def registry_of(*engines: Engine) -> Registry:
    return Registry(list(engines))
