"""The way of a shard through this process: leased, run, and ended, lost or given back."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection, Coroutine
from typing import Any

from engine.registry import Registry
from scheduler.actors.dispatcher import Dispatcher
from scheduler.actors.filler import Filler
from scheduler.actors.held import HeldShard
from scheduler.actors.inputs import Inputs
from scheduler.actors.jobs import Jobs
from scheduler.actors.leases import Leases
from scheduler.actors.recorder import Recorder
from scheduler.policy.planner import HeldView, ModelKey, model_key
from scheduler.settings import SchedulerSettings
from store.records import BatchRecord, ShardRecord, StoreError

log = logging.getLogger(__name__)


class Keeper:
    """Once `stopping` is set no shard is leased any more."""

    def __init__(
        self,
        registry: Registry,
        settings: SchedulerSettings,
        inputs: Inputs,
        leases: Leases,
        dispatcher: Dispatcher,
        recorder: Recorder,
        jobs: Jobs,
        *,
        wake: Callable[[], None],
    ) -> None:
        self._registry = registry
        self._settings = settings
        self._inputs = inputs
        self._leases = leases
        self._dispatcher = dispatcher
        self._recorder = recorder
        self._jobs = jobs
        self._wake = wake
        self._filler = Filler(settings, dispatcher)
        self._leasing: dict[tuple[str, int], ShardRecord] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self.stopping = False

    def views(self) -> list[HeldView]:
        """What is held, and what is being leased just now as if it were held already."""
        views = [shard.view() for shard in self._leases.held.values()]
        coming = [record for place, record in self._leasing.items() if place not in self._leases.held]
        return views + [HeldView(r.batch_id, r.shard_no, model_key(r), r.lines) for r in coming]

    def inflight(self) -> Counter[str]:
        """Lines that an engine has, by batch."""
        counted: Counter[str] = Counter()
        for shard in self._leases.held.values():
            counted[shard.batch_id] += len(shard.tasks)
        return counted

    def lease(self, record: ShardRecord, batch: BatchRecord) -> None:
        place = (record.batch_id, record.shard_no)
        kinds = (f"lease {record.shard_no}", f"append {record.shard_no}")
        if self.stopping or place in self._leasing or not all(self._jobs.may_start(kind, batch.id) for kind in kinds):
            return
        self._leasing[place] = record
        self._jobs.start(kinds[0], batch, lambda: self._lease(record, batch))

    async def _lease(self, record: ShardRecord, batch: BatchRecord) -> None:
        try:
            source = await self._inputs.open(batch)
            shard = await self._leases.acquire(
                record, batch, source, context_tokens_max=self._context(model_key(record))
            )
        finally:
            del self._leasing[record.batch_id, record.shard_no]
        if shard is None:
            return
        if self.stopping:
            self._spawn(self._give_back(shard))
            return
        self._dispatcher.add(shard)
        self._recorder.check(shard)
        if shard.is_filling:
            self._spawn(self._filler.fill(shard))

    def _context(self, key: ModelKey) -> int | None:
        for engine in self._registry.engines():
            for model in engine.models():
                if model.id == key.id and model.revision == key.revision:
                    return model.context_tokens_max
        return None

    async def renew(self) -> None:
        for shard in await self._leases.renew():
            self._recorder.lose(shard, "its lease expired or was taken over")

    async def report(self) -> None:
        await self._leases.report()

    def keep_only(self, batch_ids: Collection[str]) -> None:
        """Give back the shards of batches that no longer run: cancelled, expired, failed."""
        for shard in list(self._leases.held.values()):
            if shard.batch_id not in batch_ids and not shard.is_gone:
                self._spawn(self._give_back(shard))

    def give_back(self, batch_id: str, shard_no: int) -> None:
        """Give a held shard back, so that a more urgent batch has room."""
        shard = self._leases.held.get((batch_id, shard_no))
        if shard is not None and not shard.is_gone:
            self._spawn(self._give_back(shard))

    def ended(self, shard: HeldShard, batch: BatchRecord | None) -> None:
        """A shard was sealed or lost."""
        tasks = self._dispatcher.remove(shard)
        self._spawn(self._close(shard, tasks, batch))

    async def close(self) -> None:
        """Give back all that is held."""
        self._leases.close()
        for shard in list(self._leases.held.values()):
            if not shard.is_gone:
                self._spawn(self._give_back(shard))
        while self._closing:
            await asyncio.wait(self._closing)

    async def _give_back(self, shard: HeldShard) -> None:
        tasks = self._dispatcher.remove(shard)
        if tasks:
            await asyncio.wait(tasks)
        try:
            await self._recorder.let_go(shard)
        finally:
            self._leases.forget(shard)
            await self._leases.give_back(shard)
        self._wake()

    async def _close(self, shard: HeldShard, tasks: Collection[asyncio.Task[None]], batch: BatchRecord | None) -> None:
        if tasks:
            await asyncio.wait(tasks)
        await self._recorder.close_writer(shard)
        self._leases.forget(shard)
        if shard.lost:
            if shard.lost_by is not None and batch is not None:
                await self._count_loss(shard, batch, shard.lost_by)
            # If it is still ours after all, the next holder need not wait for the expiry.
            await self._leases.give_back(shard)
        self._wake()

    async def _count_loss(self, shard: HeldShard, batch: BatchRecord, error: Exception) -> None:
        kind = f"append {shard.shard_no}"
        if isinstance(error, StoreError):
            self._jobs.refused(kind, batch)
        else:
            await self._jobs.failed(kind, batch, error)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._guarded(work))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:
            log.exception("a shard could not be given back; its lease will expire")
