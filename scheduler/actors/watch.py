"""Looks at the world once per tick and puts it into the planner's words: engines, held shards, disk."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence

from engine.protocol import EngineState
from engine.registry import Registry
from scheduler import metrics
from scheduler.actors.held import HeldShard
from scheduler.actors.measures import Measures
from scheduler.facts.capacity import Served
from scheduler.policy.holding import Holding
from scheduler.policy.planner import EngineView, HeldView, ModelKey, Snapshot, model_key
from scheduler.policy.terms import Terms
from scheduler.settings import SchedulerSettings
from store import Store
from store.records import BatchRecord, ShardRecord, ShardState

log = logging.getLogger(__name__)

DISK_PROBLEM = "The disk is below its reserve. Delete files or enlarge it; the batch then goes on by itself."


class Watch:
    def __init__(
        self, store: Store, registry: Registry, settings: SchedulerSettings, measures: Measures, terms: Terms
    ) -> None:
        self._store = store
        self._registry = registry
        self._settings = settings
        self._measures = measures
        self._terms = terms
        self._below_reserve = False
        self._blocked: set[tuple[str, int]] = set()

    # --- disk

    @property
    def disk_problem(self) -> str | None:
        return DISK_PROBLEM if self._below_reserve or self._blocked else None

    async def measure_disk(self) -> bool:
        """Whether the answer to `disk_problem` has changed."""
        before = self.disk_problem
        unfinalised_bytes = await self._store.disk.unfinalised_bytes()
        self._below_reserve = await asyncio.to_thread(self._store.disk.below_reserve, unfinalised_bytes)
        return self._say_if_changed(before)

    def block(self, shard: HeldShard, reason: str | None) -> bool:
        """The disk refused this shard's results, or (None) takes them again, or the shard is gone."""
        before = self.disk_problem
        place = (shard.batch_id, shard.shard_no)
        if reason is None:
            self._blocked.discard(place)
        else:
            self._blocked.add(place)
        return self._say_if_changed(before)

    def _say_if_changed(self, before: str | None) -> bool:
        after = self.disk_problem
        if after and not before:
            metrics.DISK_PAUSES.inc()
            log.error("disk below its reserve: no shard is leased until there is space again")
        elif before and not after:
            log.info("disk has space again: leasing goes on")
        return before != after

    # --- snapshot

    async def shards_of(self, batches: Sequence[BatchRecord]) -> list[ShardRecord]:
        """The first open shards of each batch. Of one of several models whose first ones cannot run, also all that can,
        and one of every other model: it asks for that model's turn."""
        limit = self._settings.shards_listed_per_batch_max
        shards = await self._store.work.open_shards(limit_per_batch=limit)
        mixed = {batch.id for batch in batches if len(set(batch.models.values())) > 1}
        listed: dict[str, list[ShardRecord]] = {}
        for shard in shards:
            if shard.batch_id in mixed:
                listed.setdefault(shard.batch_id, []).append(shard)
        for batch_id, some in listed.items():
            if len(some) >= limit and not any(self._can_run(model_key(shard)) for shard in some):
                more = await self._store.work.shards(batch_id)
                last, asked = some[-1].shard_no, {model_key(shard) for shard in some}
                for shard in more:
                    key = model_key(shard)
                    is_open = shard.shard_no > last and shard.state is not ShardState.SEALED
                    if is_open and (key not in asked or self._can_run(key)):
                        shards.append(shard)
                        asked.add(key)
        return shards

    def _can_run(self, key: ModelKey) -> bool:
        return bool(self._registry.candidates(key.id, key.revision))

    def snapshot(
        self,
        *,
        now: float,
        batches: Sequence[BatchRecord],
        shards: Sequence[ShardRecord],
        held: Iterable[HeldView],
        holding: Holding,
        served: Mapping[str, Served],
    ) -> Snapshot:
        outages = {}
        for key in {model_key(shard) for shard in shards}:
            outage = self._registry.outage(key.id, key.revision)
            if outage is not None:
                outages[key] = outage
        return Snapshot(
            now=now,
            batches=batches,
            shards=shards,
            held=tuple(held),
            engines=self._engines(),
            outages=outages,
            disk_problem=self.disk_problem,
            seconds_per_line=self._measures.seconds_per_line(),
            waits=holding.waits,
            rescued=holding.rescued,
            relative_size=self._measures.relative_sizes(batches),
            ahead=self._measures.ahead(),
            calendar=self._terms.calendar,
            peak_share=self._measures.peak_share(),
            tiers=self._terms.tiers,
            order=self._terms.order,
            served=served,
        )

    def _engines(self) -> tuple[EngineView, ...]:
        return tuple(
            EngineView(
                engine.name,
                frozenset(ModelKey(model.id, model.revision) for model in engine.models()),
                engine.limits().inflight_requests_max,
            )
            for engine in self._registry.engines()
            if engine.status().state is EngineState.READY
        )
