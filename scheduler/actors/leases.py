"""Takes shards over, opens them, keeps their leases alive and gives them back."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.protocol import GENERATE_ENDPOINTS
from scheduler import metrics
from scheduler.actors.former_results import former_quality
from scheduler.actors.held import HeldShard, Line
from scheduler.actors.inputs import BatchInput
from scheduler.actors.waking import sleep_until
from scheduler.facts.estimates import LineSize, kv_tokens
from scheduler.facts.reuse_keys import ReuseKeys
from scheduler.facts.templates import seed_of, template_of_body
from scheduler.policy.detours import runs_of
from scheduler.policy.order import Packing
from scheduler.policy.packer import Cost
from scheduler.policy.planner import model_key
from scheduler.policy.prefixes import NO_PREFIX, Prefix, arrangement, prefixes
from scheduler.settings import SchedulerSettings
from store import Store
from store.kept_answers import KeptAnswers
from store.markers import reach
from store.order import read_order
from store.quality import Quality
from store.records import BatchRecord, Damaged, Lease, ShardProgress, ShardRecord, StoreError, TokenUsage
from store.segments import Scan, scan

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Opened:
    """A shard as read from disk: what is done, and the rest."""

    completed: int
    failed: int
    reused: int
    usage: TokenUsage
    quality: Quality | None
    line_nos: list[int]
    custom_ids: list[str]
    bodies: list[bytes]
    costs: list[Cost]
    templates: list[int]
    output_limits: list[int]
    reuse_keys: Sequence[bytes | None]
    known: Mapping[bytes, int]


@dataclass(frozen=True, slots=True)
class _Sharing:
    """How a batch shares answers: the keys of its lines, and where answers are kept."""

    keys: ReuseKeys
    kept: KeptAnswers


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
            sharing = self._sharing(batch, record, context_tokens_max)
            seed = self._seed(batch, record)
            opened = await asyncio.to_thread(self._open, lease, source, context_tokens_max, sharing, seed)
        except asyncio.CancelledError:
            await self._store.work.release(lease)
            raise
        except Exception:
            await self._release(lease)
            raise
        kept = None if sharing is None else sharing.kept
        shard = _held(batch, lease, opened, kept, confirmed_at=asked_at)
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

    def _sharing(self, batch: BatchRecord, shard: ShardRecord, context_tokens_max: int | None) -> _Sharing | None:
        kept = self._store.kept.of(batch)
        if kept is None:
            return None
        # The context bounds an answer that no limit of its own bounds.
        common = (shard.model, shard.revision, batch.endpoint, str(context_tokens_max))
        return _Sharing(ReuseKeys(self._store.kept.hasher(batch, *common), batch.endpoint), kept)

    def _seed(self, batch: BatchRecord, shard: ShardRecord) -> int | None:
        """Of the templates of the shard's lines; None where their answers have no length, or nobody asks."""
        if not self._settings.predict_lengths or batch.endpoint not in GENERATE_ENDPOINTS:
            return None
        return seed_of(shard.model, shard.revision, batch.endpoint)

    def _open(
        self,
        lease: Lease,
        source: BatchInput,
        context_tokens_max: int | None,
        sharing: _Sharing | None,
        seed: int | None,
    ) -> _Opened:
        shard = lease.shard
        completed, failed, reused, usage = 0, 0, 0, TokenUsage()
        done: set[int] = set()
        former: list[tuple[Path, Scan]] = []
        for ref in lease.earlier:
            path = self._store.segment_path(ref.batch_id, ref.shard_no, ref.generation)
            found = scan(path, ref.valid_bytes)
            former.append((path, found))
            completed += found.completed
            failed += found.failed
            reused += found.reused
            usage += found.usage_total
            done.update(found.line_nos.tolist())
        if len(done) != completed + failed:
            raise Damaged(
                f"segments of shard {shard.shard_no} of batch {shard.batch_id} hold {completed + failed} results "
                f"for {len(done)} lines"
            )
        left = [no for no in read_order(source.order_path, shard.start, shard.stop) if no not in done]
        lines = source.requests(left)
        records = source.index.records[np.asarray(left, dtype=np.int64)]
        shared = [NO_PREFIX] * len(left)
        if self._settings.packing is Packing.PREFIX and records["ladder"].any():
            bodies = [line.body for line in lines]
            places = arrangement(ladder=records["ladder"], output_tokens=records["output_tokens"], bodies=bodies)
            left, lines, records = [left[at] for at in places], [lines[at] for at in places], records[places]
            shared = prefixes(
                ladder=records["ladder"],
                prompt_bytes=records["prompt_bytes"],
                bodies=[bodies[at] for at in places],
                bytes_per_token=self._settings.prompt_bytes_per_token,
            )
        reuse_keys: Sequence[bytes | None] = [None] * len(left)
        known: Mapping[bytes, int] = {}
        if sharing is not None:
            reuse_keys = [sharing.keys.of(line.body) for line in lines]
            known = sharing.kept.known(key for key in reuse_keys if key is not None)
        quality = former_quality(former, source)
        source.index.release_memory()  # else the index of a large file ends up in memory as a whole
        return _Opened(
            completed,
            failed,
            reused,
            usage,
            quality,
            left,
            [line.custom_id for line in lines],
            [line.body for line in lines],
            self._costs(records, shared, context_tokens_max),
            [
                0 if seed is None else _template(line.body, prefix, seed)
                for line, prefix in zip(lines, shared, strict=True)
            ],
            records["output_tokens"].tolist(),
            reuse_keys,
            known,
        )

    def _costs(self, records: NDArray[Any], shared: Sequence[Prefix], context_tokens_max: int | None) -> list[Cost]:
        columns = (records[name].tolist() for name in ("prompt_bytes", "output_tokens", "sub_requests"))
        return [
            self._cost(LineSize(*size), prefix, context_tokens_max)
            for *size, prefix in zip(*columns, shared, strict=True)
        ]

    def _cost(self, size: LineSize, prefix: Prefix, context_tokens_max: int | None) -> Cost:
        tokens = kv_tokens(
            size,
            bytes_per_token=self._settings.prompt_bytes_per_token,
            output_tokens_assumed=self._settings.output_tokens_assumed,
            context_tokens_max=context_tokens_max,
        )
        prompt_tokens = math.ceil(size.prompt_bytes / self._settings.prompt_bytes_per_token)
        prompt_tokens = min(prompt_tokens, tokens)
        prefix_tokens = min(prefix.tokens, max(0, prompt_tokens - 1))
        return Cost(max(1, size.sub_requests), tokens, prompt_tokens, prefix.key, prefix_tokens)


def _template(body: bytes, prefix: Prefix, seed: int) -> int:
    return prefix.key ^ seed if prefix.tokens else template_of_body(body, seed)


def _held(
    batch: BatchRecord, lease: Lease, opened: _Opened, kept: KeptAnswers | None, *, confirmed_at: float
) -> HeldShard:
    shard = HeldShard(
        batch_id=batch.id,
        tenant=batch.tenant,
        endpoint=batch.endpoint,
        lease=lease,
        model=model_key(lease.shard),
        confirmed_at=confirmed_at,
        completed=opened.completed,
        failed=opened.failed,
        reused=opened.reused,
        usage=opened.usage,
        quality=opened.quality,
    )
    columns = zip(opened.line_nos, opened.custom_ids, opened.bodies, opened.costs, strict=True)
    lines = [Line(shard, *column) for column in columns]
    for line, key in zip(lines, opened.reuse_keys, strict=True):
        line.reuse_key = key
    for line, template, output_limit in zip(lines, opened.templates, opened.output_limits, strict=True):
        line.template, line.output_limit = template, output_limit
    if kept is not None:
        shard.kept = kept
        shard.stored = deque(
            (line, opened.known[line.reuse_key]) for line in lines if line.reuse_key and line.reuse_key in opened.known
        )
        shard.is_filling = bool(shard.stored)
        lines = [line for line in lines if line.reuse_key not in opened.known]
    shard.waiting = deque(lines)
    shard.runs = runs_of([line.cost for line in lines])
    shard.shares = any(run.prefix_tokens for run in shard.runs.values())
    return shard
