"""The scheduler's own policy code at work on virtual batches: what it holds back, what it plans, in what order.

Nothing is decided here. Batches become the records, shards and snapshots that the planner sees in a server, what it
leases is held, and held lines run in the order of its ranking, as the dispatcher's lanes do. Rates are measured as in
a server; that one batch's lines take longer than another's is never learnt here, so estimates stay off to the end.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from benchmarks.deadlines_clock import LINES_EPSILON, Active, Portion
from benchmarks.deadlines_world import PROFILE
from scheduler.facts.rates import ModelRate
from scheduler.facts.windows import Calendar
from scheduler.policy.fairness import Accounts
from scheduler.policy.holding import Hold, Holding, holding
from scheduler.policy.planner import EngineView, HeldView, Limits, ModelKey, Snapshot, plan, wanted_lines
from scheduler.policy.ranking import Order
from scheduler.settings import SchedulerSettings
from store.records import (
    BatchRecord,
    BatchStatus,
    OnDeadline,
    PinnedModel,
    RequestCounts,
    ShardRecord,
    ShardState,
)

MODEL = ModelKey("virtual", "r1")
ENGINE = EngineView("gpu", frozenset({MODEL}), 2 * PROFILE.running_max)
SETTINGS = SchedulerSettings(shard_lines_max=16_384, shards_listed_per_batch_max=2)
"""Larger shards than a server's, hence fewer plans: a shard is still little beside a batch."""


@dataclass(slots=True)
class _Batch:
    """What the store would know of a batch: its record as last shown, its open shards with the lines left in each."""

    record: BatchRecord
    open: dict[int, float]
    lines_of: dict[int, int]
    held: set[int] = field(default_factory=set)

    def show(self, completed: int) -> BatchRecord:
        if self.record.counts.completed != completed:
            counts = replace(self.record.counts, completed=completed)
            self.record = replace(self.record, counts=counts)
        return self.record


class Planned:
    """`hold` None: it is the planner's order alone that is at work, at any hour."""

    def __init__(
        self,
        calendar: Calendar,
        hold: Hold | None,
        *,
        rate: ModelRate | None = None,
        tenant_weights: Mapping[str, float] | None = None,
        settings: SchedulerSettings = SETTINGS,
    ) -> None:
        """`rate`: what was measured before."""
        self._order = Order(tenant_weights or {})
        self.rate = ModelRate() if rate is None else rate
        self._calendar = calendar
        self._hold = hold
        self._settings = settings
        self._limits = Limits(
            settings.shards_open_max, settings.waiting_multiple, settings.waiting_lines_min, settings.waiting_seconds
        )
        self._accounts = Accounts()
        self._served: dict[str, float] = defaultdict(float)
        self._batches: dict[str, _Batch] = {}
        self._waits: frozenset[str] = frozenset()

    def portions(self, now: float, active: Mapping[str, Active]) -> Sequence[Portion]:
        records = [self._seen(batch) for batch in active.values()]
        rates = {MODEL: self.rate.seconds_per_line} if self.rate.seconds_per_line else {}
        found = holding(records, self._hold, now=now, seconds_per_line=rates, peak_share=self.rate.peak_share)
        self._waits = frozenset(found.waits)
        for batch_id in found.waits:
            self._batches[batch_id].held.clear()
        snapshot = self._snapshot(now, records, rates, found)
        planned = plan(snapshot, self._limits)
        for batch_id, shard_no in planned.returns:
            self._batches[batch_id].held.discard(shard_no)
        for shard in planned.leases:
            self._batches[shard.batch_id].held.add(shard.shard_no)
        held = [(active[batch_id], self._held_lines(batch_id)) for batch_id in planned.ranking]
        wanted = wanted_lines(snapshot, self._limits).get(MODEL, 0)
        return _until_low([Portion(batch, lines) for batch, lines in held if lines > 0], wanted)

    def served(self, batch: Active, lines: float) -> None:
        mine = self._batches[batch.job.id]
        self._served[batch.job.tenant] += lines
        for shard_no in sorted(mine.held):
            taken = min(lines, mine.open[shard_no])
            mine.open[shard_no] -= taken
            lines -= taken
            if mine.open[shard_no] <= LINES_EPSILON:
                del mine.open[shard_no]
                mine.held.discard(shard_no)
        if batch.ended:
            del self._batches[batch.job.id]

    def passed(self, begun: float, seconds: float) -> None:
        """As the measures of a server do once a second: rates by hour of day, and what each tenant has had."""
        lines = sum(self._served.values())
        if lines:
            is_peak = self._calendar.open_at(begun) is None
            is_full = any(batch.held for batch in self._batches.values())
            self.rate.add(lines=round(lines), busy_seconds=seconds, is_peak=is_peak, is_full=is_full)
        tenants = {batch_id: batch.record.tenant for batch_id, batch in self._batches.items()}
        self._accounts.settle(
            {tenant: lines * self.rate.seconds_per_line for tenant, lines in self._served.items()},
            able={tenant for batch_id, tenant in tenants.items() if batch_id not in self._waits},
            present=set(tenants.values()),
            weights=self._order.tenant_weights,
        )
        self._served.clear()

    def _seen(self, batch: Active) -> BatchRecord:
        known = self._batches.get(batch.job.id)
        if known is None:
            known = self._batches[batch.job.id] = _new(batch, self._settings.shard_lines_max)
        return known.show(int(batch.lines_done))

    def _held_lines(self, batch_id: str) -> float:
        mine = self._batches[batch_id]
        return sum(mine.open[shard_no] for shard_no in mine.held)

    def _snapshot(
        self,
        now: float,
        records: Sequence[BatchRecord],
        rates: Mapping[ModelKey, float],
        found: Holding,
    ) -> Snapshot:
        held = [
            HeldView(record.id, shard_no, MODEL, math.ceil(self._batches[record.id].open[shard_no]), is_idle=True)
            for record in records
            for shard_no in sorted(self._batches[record.id].held)
        ]
        return Snapshot(
            now=now,
            batches=records,
            shards=[shard for record in records for shard in self._open_shards(record.id)],
            held=held,
            engines=(ENGINE,),
            outages={},
            disk_problem=None,
            seconds_per_line=rates,
            waits=found.waits,
            rescued=found.rescued,
            ahead=self._accounts.ahead,
            calendar=self._calendar,
            peak_share=self.rate.peak_share,
            order=self._order,
        )

    def _open_shards(self, batch_id: str) -> list[ShardRecord]:
        """The first open ones, as the watch lists them."""
        mine = self._batches[batch_id]
        listed = list(mine.open)[: self._settings.shards_listed_per_batch_max]
        return [
            ShardRecord(
                batch_id,
                shard_no,
                shard_no * self._settings.shard_lines_max,
                shard_no * self._settings.shard_lines_max + mine.lines_of[shard_no],
                MODEL.id,
                MODEL.revision,
                ShardState.LEASED if shard_no in mine.held else ShardState.READY,
                lease_expires_at=math.inf if shard_no in mine.held else None,
            )
            for shard_no in listed
        ]


def _until_low(portions: Sequence[Portion], wanted: int) -> list[Portion]:
    """Only so much that `wanted` lines are still waiting afterwards: then the dispatcher asks for more shards."""
    left = max(sum(portion.lines for portion in portions) - wanted, wanted / 2)
    cut = []
    for portion in portions:
        if left <= 0:
            break
        cut.append(Portion(portion.batch, min(portion.lines, left)))
        left -= portion.lines
    return cut


def _new(batch: Active, shard_lines_max: int) -> _Batch:
    job = batch.job
    sizes = dict.fromkeys(range(job.lines // shard_lines_max), shard_lines_max)
    if job.lines % shard_lines_max:
        sizes[len(sizes)] = job.lines % shard_lines_max
    record = BatchRecord(
        id=job.id,
        tenant=job.tenant,
        endpoint="/v1/chat/completions",
        input_file_id="file",
        completion_window=job.tier,
        status=BatchStatus.IN_PROGRESS,
        created_at=int(job.created_at),
        expires_at=int(job.deadline_at),
        on_deadline=OnDeadline.CONTINUE,
        models={MODEL.id: PinnedModel(MODEL.id, MODEL.revision)},
        counts=RequestCounts(total=job.lines),
    )
    return _Batch(record, {no: float(size) for no, size in sizes.items()}, sizes)
