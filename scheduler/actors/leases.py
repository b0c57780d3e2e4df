"""Takes shards over, opens them, keeps their leases alive and gives them back."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from scheduler import metrics
from scheduler.actors.held import HeldShard, Line
from scheduler.actors.inputs import BatchInput
from scheduler.actors.waking import sleep_until
from scheduler.facts.estimates import LineSize, kv_tokens
from scheduler.policy.packer import Cost
from scheduler.policy.planner import model_key
from scheduler.settings import SchedulerSettings
from store import Store
from store.markers import reach
from store.order import read_order
from store.quality import Quality
from store.records import BatchRecord, Damaged, Lease, ShardProgress, ShardRecord, StoreError, TokenUsage
from store.segments import scan

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Opened:
    """A shard as read from disk: what is done, and the rest."""

    completed: int
    failed: int
    usage: TokenUsage
    line_nos: list[int]
    custom_ids: list[str]
    bodies: list[bytes]
    costs: list[Cost]


class Leases:
    """The leases of one holder. `held` is what it holds, by (batch, shard)."""

    def __init__(
        self,
        store: Store,
        settings: SchedulerSettings,
        *,
        holder: str,
        now: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._store = store
        self._settings = settings
        self._holder = holder
        self._now = now
        self._monotonic = monotonic
        self._closing = asyncio.Event()
        self.held: dict[tuple[str, int], HeldShard] = {}

    async def acquire(
        self, record: ShardRecord, batch: BatchRecord, source: BatchInput, *, context_tokens_max: int | None
    ) -> HeldShard | None:
        """Take a free shard and open it; None when another was faster. Damaged names the file that cannot be read.

        The newest segment is read before the takeover, which fixes how much of it counts: what its former holder
        still appends meanwhile is generated again.
        """
        newest = self._store.segment_path(record.batch_id, record.shard_no, record.generation)
        found = await asyncio.to_thread(scan, newest) if record.generation else None
        asked_at = self._monotonic()
        lease = await self._take(record, valid_bytes=0 if found is None else found.valid_bytes)
        if lease is None:
            return None
        reach("shard.leased")
        try:
            opened = await asyncio.to_thread(self._open, lease, source, context_tokens_max)
        except asyncio.CancelledError:
            await self._store.work.release(lease)
            raise
        except Exception:
            await self._release(lease)
            raise
        shard = _held(batch, lease, opened, confirmed_at=asked_at)
        self.held[shard.batch_id, shard.shard_no] = shard
        metrics.SHARDS_OPEN.inc()
        return shard

    async def _take(self, record: ShardRecord, *, valid_bytes: int) -> Lease | None:
        """The takeover. A cancellation in its midst frees at once what was taken, instead of after a lease time."""
        taking = asyncio.ensure_future(
            self._store.work.lease(
                record.batch_id,
                record.shard_no,
                holder=self._holder,
                expected_generation=record.generation,
                valid_bytes=valid_bytes,
                now=self._now(),
                lease_seconds=self._settings.lease_seconds,
            )
        )
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            lease = await taking
            if lease is not None:
                await self._store.work.release(lease)
            raise

    async def renew(self) -> list[HeldShard]:
        """Renew every lease with one UPDATE; the shards that are not ours any more.

        One that is being sealed or given back may have left us by its own doing.
        """
        shards = list(self.held.values())
        if not shards:
            return []
        asked_at, now = self._monotonic(), self._now()
        ours = await self._store.work.renew(self._holder, now=now, expires_at=now + self._settings.lease_seconds)
        for shard in shards:
            if shard.place in ours:
                shard.confirmed_at = asked_at
        lost = [shard for shard in shards if shard.place not in ours]
        return [shard for shard in lost if not shard.is_gone and not shard.sealing]

    async def report(self) -> None:
        """Show the progress of what has moved since the last report.

        Noted as reported is what was sent, not what a shard has come to while the store was writing it.
        """
        moved = [shard for shard in self.held.values() if shard.durable != shard.reported and not shard.dropped]
        if not moved:
            return
        sent = [(shard, shard.durable) for shard in moved]
        await self._store.work.report([shard.progress() for shard in moved])
        for shard, durable in sent:
            shard.reported = durable

    def forget(self, shard: HeldShard) -> None:
        if self.held.get((shard.batch_id, shard.shard_no)) is shard:
            del self.held[shard.batch_id, shard.shard_no]
            metrics.SHARDS_OPEN.dec()

    async def give_back(self, shard: HeldShard) -> None:
        """Free the shard for the next holder, as soon as the store does it. Its segment must be closed."""
        await self._release(shard.lease, [shard.progress()])

    def close(self) -> None:
        """What the store refuses from now on is not tried again: who comes next finds the leases."""
        self._closing.set()

    async def _release(self, lease: Lease, progress: Sequence[ShardProgress] = ()) -> None:
        """However often the store refuses: a lease is renewed with all others of its holder, and would never expire."""
        refusals = 0
        while True:
            try:
                await self._store.work.report(progress)
                await self._store.work.release(lease)
                return
            except StoreError as error:
                if self._closing.is_set():
                    raise
                refusals += 1
                if refusals == 1:
                    shard = lease.shard
                    log.warning("shard %d of %s waits to be given back: %s", shard.shard_no, shard.batch_id, error)
            await sleep_until(self._closing, self._settings.backoff_seconds(refusals))

    def _open(self, lease: Lease, source: BatchInput, context_tokens_max: int | None) -> _Opened:
        shard = lease.shard
        completed, failed, usage = 0, 0, TokenUsage()
        done: set[int] = set()
        for ref in lease.earlier:
            found = scan(self._store.segment_path(ref.batch_id, ref.shard_no, ref.generation), ref.valid_bytes)
            completed += found.completed
            failed += found.failed
            usage += found.usage_total
            done.update(found.line_nos.tolist())
        if len(done) != completed + failed:
            raise Damaged(
                f"segments of shard {shard.shard_no} of batch {shard.batch_id} hold {completed + failed} results "
                f"for {len(done)} lines"
            )
        left = [no for no in read_order(source.order_path, shard.start, shard.stop) if no not in done]
        lines = source.requests(left)
        return _Opened(
            completed,
            failed,
            usage,
            left,
            [line.custom_id for line in lines],
            [line.body for line in lines],
            self._costs(source, left, context_tokens_max),
        )

    def _costs(self, source: BatchInput, line_nos: list[int], context_tokens_max: int | None) -> list[Cost]:
        records = source.index.records[np.asarray(line_nos, dtype=np.int64)]
        columns = (records[name].tolist() for name in ("prompt_bytes", "output_tokens", "sub_requests"))
        return [self._cost(LineSize(*size), context_tokens_max) for size in zip(*columns, strict=True)]

    def _cost(self, size: LineSize, context_tokens_max: int | None) -> Cost:
        tokens = kv_tokens(
            size,
            bytes_per_token=self._settings.prompt_bytes_per_token,
            output_tokens_assumed=self._settings.output_tokens_assumed,
            context_tokens_max=context_tokens_max,
        )
        prompt_tokens = math.ceil(size.prompt_bytes / self._settings.prompt_bytes_per_token)
        return Cost(max(1, size.sub_requests), tokens, min(prompt_tokens, tokens))


def _held(batch: BatchRecord, lease: Lease, opened: _Opened, *, confirmed_at: float) -> HeldShard:
    shard = HeldShard(
        batch_id=batch.id,
        tenant=batch.tenant,
        endpoint=batch.endpoint,
        lease=lease,
        model=model_key(lease.shard),
        confirmed_at=confirmed_at,
        completed=opened.completed,
        failed=opened.failed,
        usage=opened.usage,
        quality=None if opened.completed + opened.failed else Quality(),
    )
    lines = zip(opened.line_nos, opened.custom_ids, opened.bodies, opened.costs, strict=True)
    shard.waiting = deque(Line(shard, *line) for line in lines)
    return shard
