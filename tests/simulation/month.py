"""October 2026 in Berlin: a store on disk, one slow engine that dies at times, batches, people who chat.

The clocks go back on Sunday the 25th. Nights, from 22:00 to 06:00, are off-peak; what can wait for them does.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, time
from pathlib import Path
from zoneinfo import ZoneInfo

from engine.protocol import CHAT_COMPLETIONS, EngineRequest, EngineResult, ModelInfo
from engine.registry import Registry
from engine.simulated import SimulatedEngine, SimulatedProfile, simulated_model
from engine.supervisor import Supervised
from scheduler import Scheduler, SchedulerSettings
from scheduler.facts.windows import Calendar, Window
from scheduler.policy.holding import Hold
from scheduler.settings import ThrottleSettings
from store import BatchRecord, FileRecord, NewBatch, OnDeadline, PinnedModel, Store, StoreSettings, open_store
from tests.simulation.virtual_time import virtual_loop

ZONE = ZoneInfo("Europe/Berlin")
HOUR, DAY = 3_600.0, 86_400.0
CALENDAR = Calendar((Window("night", frozenset(range(7)), time(22), time(6), ZONE),), zone=ZONE)

SLOW = SimulatedProfile(
    name="slow",
    step_seconds=60.0,
    decode_seconds=5.0,
    prefill_seconds=0.001,
    step_tokens_max=2_048,
    running_max=8,
    waiting_max=64,
    kv_tokens_max=8_192,
    block_tokens=32,
    context_tokens_max=1_024,
    output_tokens_mean=64,
    embedding_dimensions=8,
    source="made up: eight lines of eight tokens take 13 minutes, so that a month is a few thousand lines",
)
LINE_OUTPUT_TOKENS = 8

SETTINGS = SchedulerSettings(
    tick_seconds=HOUR / 2,
    shard_lines_max=64,
    waiting_lines_min=8,
    lease_seconds=2 * DAY,
    report_seconds=HOUR / 12,
    retry_seconds_min=1.0,
    retry_seconds_max=60.0,
    disk_check_seconds=DAY,
    reap_seconds=DAY,
    notify_seconds=DAY,
    sole_scheduler=True,
    throttle=ThrottleSettings(look_seconds=60.0, idle_look_seconds=HOUR / 2),
)
"""Whatever a server does every second is done every few minutes here, beside what it does when it is woken."""


def berlin(day: int, hour: int, minute: int = 0, *, fold: int = 0) -> float:
    """A local time of the month, in Unix seconds; `fold` 1 is the second of two."""
    return datetime(2026, 10, day, hour, minute, tzinfo=ZONE, fold=fold).astimezone(UTC).timestamp()


START_AT = berlin(1, 0)
END_AT = datetime(2026, 11, 1, tzinfo=ZONE).astimezone(UTC).timestamp()


class WatchedEngine(SimulatedEngine):
    """Notes which batch had a request taken in when."""

    def __init__(self, name: str, *, models: Sequence[ModelInfo], now: Callable[[], float]) -> None:
        super().__init__(name, SLOW, models=models, time_scale=1.0, now=now)
        self.asked: list[tuple[float, str]] = []
        self._clock = now

    async def generate(self, request: EngineRequest) -> EngineResult:
        self.asked.append((self._clock(), request.request_id))
        return await super().generate(request)


@dataclass(slots=True)
class Month:
    store: Store
    engine: WatchedEngine
    registry: Registry
    now: Callable[[], float]
    files: dict[tuple[str, int], FileRecord] = field(default_factory=dict)
    batches: dict[str, str] = field(default_factory=dict)
    """The tenant of each."""
    asked_online: int = 0
    answered_online: int = 0
    _scheduler: Scheduler | None = None
    _running: asyncio.Task[None] | None = None
    _uploading: asyncio.Lock = field(default_factory=asyncio.Lock)

    # --- time

    async def until(self, at: float) -> None:
        await asyncio.sleep(max(0.0, at - self.now()))

    def at(self, at: float, work: Callable[[], Awaitable[object]]) -> asyncio.Task[None]:
        async def later() -> None:
            await self.until(at)
            await work()

        return asyncio.create_task(later())

    # --- the scheduler's life

    async def start_scheduler(self) -> None:
        loop = virtual_loop()
        self._scheduler = Scheduler(
            self.store,
            self.registry,
            SETTINGS,
            now=self.now,
            monotonic=loop.time,
            holder=f"scheduler {self.now()}",
            hold=Hold(CALENDAR, SETTINGS.hold_work_margin, SETTINGS.hold_reserve_seconds),
        )
        self._running = asyncio.create_task(self._scheduler.run())

    async def crash_scheduler(self) -> None:
        """Without draining anything, and started again at once."""
        await self.end_scheduler()
        await self.start_scheduler()

    async def end_scheduler(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
            await asyncio.wait({running})
            if not running.cancelled() and (error := running.exception()) is not None:
                raise error

    async def kill_engine(self) -> None:
        self.engine.kill("simulated: the card fell off the bus")

    # --- batches

    async def submit(self, tier: str, seconds: float, *, lines: int, tenant: str, name: str = "") -> str:
        """A batch that is due in so many seconds."""
        file = await self._file(tenant, lines)
        created_at = int(self.now())
        model = self.engine.models()[0]
        batch_id = f"batch_{len(self.batches):03d}{name}"
        self.batches[batch_id] = tenant
        await self.store.batches.create(
            NewBatch(
                id=batch_id,
                tenant=tenant,
                endpoint=CHAT_COMPLETIONS,
                input_file_id=file.id,
                completion_window=tier,
                created_at=created_at,
                expires_at=created_at + int(seconds),
                on_deadline=OnDeadline.EXPIRE,
                models={model.id: PinnedModel(model.id, model.revision)},
            )
        )
        if self._scheduler is not None:
            self._scheduler.wake()
        return batch_id

    async def _file(self, tenant: str, lines: int) -> FileRecord:
        """All batches of one size and one tenant have the same input."""
        async with self._uploading:
            if (tenant, lines) not in self.files:
                self.files[tenant, lines] = await self._upload(tenant, lines)
        return self.files[tenant, lines]

    async def _upload(self, tenant: str, lines: int) -> FileRecord:
        with virtual_loop().at_real_pace():
            upload = await self.store.uploads.begin(indexed=True)
            await upload.write(b"".join(_line(no, self.engine.models()[0].id) for no in range(lines)))
            blob = await upload.finish()
        name = f"file-{tenant}-{lines}"
        file = FileRecord(name, tenant, "batch", "in.jsonl", blob.bytes, 0, None, blob.key, blob.summary)
        await self.store.files.insert(file)
        return file

    async def every_batch(self) -> list[BatchRecord]:
        found = [await self.store.batches.get(tenant, batch_id) for batch_id, tenant in self.batches.items()]
        return [record for record in found if record is not None]

    async def until_all_ended(self, *, patience_seconds: float) -> None:
        give_up_at = self.now() + patience_seconds
        while self.now() < give_up_at and await self._unfinished():  # noqa: ASYNC110 (it lies in a database)
            await asyncio.sleep(HOUR)

    async def _unfinished(self) -> bool:
        return not all(batch.status.terminal for batch in await self.every_batch())

    async def custom_ids(self, batch: BatchRecord) -> list[str]:
        """Of the output file, in its order."""
        assert batch.output_file_id is not None
        file = await self.store.files.get(batch.tenant, batch.output_file_id)
        assert file is not None
        data = b"".join([chunk async for chunk in self.store.blobs.read(file.blob)])
        return [json.loads(line)["custom_id"] for line in data.splitlines()]

    # --- people

    async def chat(self) -> None:
        """One short question, which the batch must not delay."""
        self.asked_online += 1
        model = self.engine.models()[0].id
        body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
        request = EngineRequest(f"online-{self.asked_online}", model, CHAT_COMPLETIONS, json.dumps(body).encode())
        with self.registry.presence.online(self.engine.name):
            result = await self.engine.generate(request)
        self.answered_online += result.status_code == 200


TENANTS = ("search", "support", "legal")


def _line(no: int, model: str) -> bytes:
    body = {"model": model, "messages": [{"role": "user", "content": f"{no}"}], "max_tokens": LINE_OUTPUT_TOKENS}
    row = {"custom_id": f"row-{no}", "method": "POST", "url": CHAT_COMPLETIONS, "body": body}
    return json.dumps(row).encode() + b"\n"


@asynccontextmanager
async def october(folder: Path) -> AsyncIterator[Month]:
    """From its first midnight. The scheduler runs already."""
    loop = virtual_loop()
    begun = loop.time()

    def now() -> float:
        return START_AT + loop.time() - begun

    engine = WatchedEngine("slow", models=(simulated_model("slow-chat", SLOW),), now=now)
    supervised = Supervised(engine, now=now, monotonic=loop.time, chance=random.Random(1).random, poll_seconds=6 * HOUR)
    settings = StoreSettings(disk_reserve_bytes=1024, index_workers_max=1)
    with loop.at_real_pace():
        store = await open_store(folder, settings=settings, now=now)
    month = Month(store, engine, Registry([supervised]), now)
    try:
        await supervised.start()
        await month.start_scheduler()
        yield month
    finally:
        await month.end_scheduler()
        await supervised.stop()
        with loop.at_real_pace():
            await store.close()
