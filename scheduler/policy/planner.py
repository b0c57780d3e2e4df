"""What the next tick does: which shards to lease or give back, which batches pause or resume, in what order they run.

The order is `ranking`'s. A batch's next shard is leased only when the lines already waiting for its model, of batches
at least as urgent, would soon be used up: so little is held that a more urgent batch never waits behind much. Where all
shards that may be open are taken by less urgent batches, those that have nothing in flight are given back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from scheduler.facts.capacity import PEAK_SHARE_ASSUMED, Served, Supply
from scheduler.facts.tiers import DEFAULT_TERMS, TierTerms
from scheduler.facts.windows import Calendar
from scheduler.facts.work import Job, ModelKey, job_of, models_of
from scheduler.policy.detours import HURRIED_SECONDS
from scheduler.policy.ranking import Order, Queue, Ranked, Turn, rank
from store.records import BatchRecord, ShardRecord, ShardState

__all__ = ["EngineView", "HeldView", "Limits", "ModelKey", "Pause", "Plan", "Snapshot", "model_key", "plan"]


COMPANIONS_MAX = 4
"""Batches that have a shard open at once because lines of theirs may begin alike."""


@dataclass(frozen=True, slots=True)
class EngineView:
    """An engine that is ready."""

    name: str
    serves: frozenset[ModelKey]
    inflight_requests_max: int


@dataclass(frozen=True, slots=True)
class HeldView:
    """A shard that this scheduler holds; `waiting` lines of it are not in flight yet. `is_idle`: none of it is, and no
    result of it is still to be written. `shares`: lines of it begin alike."""

    batch_id: str
    shard_no: int
    model: ModelKey
    waiting: int
    is_idle: bool = False
    shares: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """`waiting_seconds`: how long the lines that wait for a model should last at its measured rate."""

    shards_open_max: int
    waiting_multiple: float
    waiting_lines_min: int
    waiting_seconds: float = 1.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`batches` are those in progress, oldest first; `shards` their open ones by (batch, shard_no).

    `outages` says for a model without a ready engine why. `disk_problem` is set while nothing may be leased.
    `waits` has the batches that must not run now, with the reason for people, and `rescued` those that run in peak
    hours since the windows do not suffice for them.

    What the order is made by: `seconds_per_line` of a line of mean size, outside peak hours where that is known;
    `relative_size` of a batch's lines; `peak_share` of that rate that is left in peak hours; `ahead`, the seconds of
    the engines that a tenant has had beyond its share; `served`, when the models are there that come and go, by id.
    """

    now: float
    batches: Sequence[BatchRecord]
    shards: Sequence[ShardRecord]
    held: Sequence[HeldView]
    engines: Sequence[EngineView]
    outages: Mapping[ModelKey, str]
    disk_problem: str | None
    seconds_per_line: Mapping[ModelKey, float]
    waits: Mapping[str, str] = field(default_factory=dict)
    rescued: Mapping[str, str] = field(default_factory=dict)
    relative_size: Mapping[str, float] = field(default_factory=dict)
    ahead: Mapping[str, float] = field(default_factory=dict)
    calendar: Calendar = field(default_factory=Calendar)
    peak_share: float = PEAK_SHARE_ASSUMED
    tiers: Mapping[str, TierTerms] = field(default_factory=dict)
    order: Order = field(default_factory=Order)
    served: Mapping[str, Served] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pause:
    batch_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """`ranked` are all batches in progress, those that run first in front. `returns` are held shards to give back, as
    (batch, shard_no)."""

    ranked: tuple[Ranked, ...]
    leases: tuple[ShardRecord, ...]
    pauses: tuple[Pause, ...]
    resumes: tuple[str, ...]
    returns: tuple[tuple[str, int], ...] = ()

    @property
    def ranking(self) -> tuple[str, ...]:
        return tuple(ranked.batch_id for ranked in self.ranked)

    @property
    def hurried(self) -> frozenset[str]:
        """Batches that have no time for others' lines to go first, whatever that saves."""
        return frozenset(
            one.batch_id for one in self.ranked if one.turn is Turn.DUE or one.spare_seconds < HURRIED_SECONDS
        )


def model_key(shard: ShardRecord) -> ModelKey:
    return ModelKey(shard.model, shard.revision)


def plan(snapshot: Snapshot, limits: Limits) -> Plan:
    shards_of: dict[str, list[ShardRecord]] = defaultdict(list)
    for shard in snapshot.shards:
        shards_of[shard.batch_id].append(shard)
    ranked = rank(queue_of(snapshot), snapshot.order)
    pauses, resumes = _pauses(snapshot, shards_of)
    if snapshot.disk_problem:
        return Plan(ranked, (), pauses, resumes)
    leases, returns = _leases(snapshot, limits, [one.batch_id for one in ranked], shards_of)
    return Plan(ranked, leases, pauses, resumes, returns)


def jobs_of(snapshot: Snapshot) -> list[Job]:
    return [
        job_of(
            batch,
            now=snapshot.now,
            seconds_per_line=snapshot.seconds_per_line,
            relative_size=snapshot.relative_size.get(batch.id, 1.0),
            terms=snapshot.tiers.get(batch.completion_window, DEFAULT_TERMS),
        )
        for batch in snapshot.batches
    ]


def queue_of(snapshot: Snapshot) -> Queue:
    """A batch that cannot run for want of an engine is put aside: nothing needs to make way for it."""
    jobs = jobs_of(snapshot)
    supply = Supply(
        snapshot.calendar,
        now=snapshot.now,
        until=max((job.due_at for job in jobs), default=snapshot.now),
        peak_share=snapshot.peak_share,
        served=snapshot.served,
    )
    held = frozenset(batch.id for batch in snapshot.batches if batch.held_at is not None or _is_out(batch, snapshot))
    waiting = frozenset(snapshot.waits) - held
    return Queue(jobs, snapshot.now, supply.of(()), snapshot.ahead, waiting, held, supply)


def _is_out(batch: BatchRecord, snapshot: Snapshot) -> bool:
    models = models_of(batch)
    return bool(models) and all(key in snapshot.outages for key in models)


def _leases(
    snapshot: Snapshot, limits: Limits, ranking: Sequence[str], shards_of: Mapping[str, Sequence[ShardRecord]]
) -> tuple[tuple[ShardRecord, ...], tuple[tuple[str, int], ...]]:
    room = {engine.name: limits.shards_open_max for engine in snapshot.engines}
    serving = _serving(snapshot.engines)
    waiting: dict[str, dict[ModelKey, int]] = defaultdict(lambda: defaultdict(int))
    held = set()
    for view in snapshot.held:
        held.add((view.batch_id, view.shard_no))
        waiting[view.batch_id][view.model] += view.waiting
        name = _roomiest(serving.get(view.model, ()), room)
        if name is not None:
            room[name] -= 1
    wanted = wanted_lines(snapshot, limits)
    ahead: dict[ModelKey, int] = defaultdict(int)
    leases: list[ShardRecord] = []
    crowded_out: dict[ModelKey, int] = {}
    for place, batch_id in enumerate(ranking):
        if batch_id in snapshot.waits:
            continue
        for key, lines in waiting[batch_id].items():
            ahead[key] += lines
        for shard in shards_of.get(batch_id, ()):
            key = model_key(shard)
            if (batch_id, shard.shard_no) in held or not _is_free(shard, snapshot.now):
                continue
            name = _roomiest(serving.get(key, ()), room)
            if name is None or ahead[key] >= wanted[key]:
                continue
            if room[name] <= 0:
                crowded_out.setdefault(key, place)
                continue
            room[name] -= 1
            ahead[key] += shard.lines
            leases.append(shard)
    if not crowded_out:
        leases += _companions(snapshot, limits, ranking, shards_of, leases, room)
    return tuple(leases), _returns(snapshot, ranking, crowded_out)


def _companions(
    snapshot: Snapshot,
    limits: Limits,
    ranking: Sequence[str],
    shards_of: Mapping[str, Sequence[ShardRecord]],
    leases: Sequence[ShardRecord],
    room: dict[str, int],
) -> list[ShardRecord]:
    """While lines that run begin alike, a shard of each of the next few batches: lines of theirs may begin so too, and
    go along. They take at most half of the places, so that an urgent batch finds one."""
    sharing = {view.model for view in snapshot.held if view.shares}
    if not sharing:
        return []
    serving = _serving(snapshot.engines)
    open_now = {(view.batch_id, view.model) for view in snapshot.held}
    open_now |= {(shard.batch_id, model_key(shard)) for shard in leases}
    places = dict.fromkeys(sharing, COMPANIONS_MAX)
    found = []
    for batch_id in ranking:
        if not any(places.values()):
            break
        if batch_id in snapshot.waits:
            continue
        for key in [key for key, left in places.items() if left]:
            name = _roomiest(serving.get(key, ()), room)
            if (batch_id, key) in open_now:
                places[key] -= 1
            elif name is not None and room[name] > limits.shards_open_max // 2:
                shard = _first_free(shards_of.get(batch_id, ()), key, snapshot.now)
                if shard is not None:
                    places[key] -= 1
                    room[name] -= 1
                    found.append(shard)
    return found


def _first_free(shards: Sequence[ShardRecord], key: ModelKey, now: float) -> ShardRecord | None:
    return next((shard for shard in shards if model_key(shard) == key and _is_free(shard, now)), None)


def _returns(
    snapshot: Snapshot, ranking: Sequence[str], crowded_out: Mapping[ModelKey, int]
) -> tuple[tuple[str, int], ...]:
    """For each model whose engines are full of shards while the batch at place `crowded_out` wants one: the idle shard
    of the batch furthest behind it. Its results so far stay; only what was read of it is read again."""
    place_of = {batch_id: place for place, batch_id in enumerate(ranking)}

    def place_of_shard(view: HeldView) -> tuple[int, int]:
        return place_of.get(view.batch_id, len(ranking)), view.shard_no

    found: dict[tuple[str, int], None] = {}
    for key, place in crowded_out.items():
        beside = {model for engine in snapshot.engines if key in engine.serves for model in engine.serves}
        idle = [view for view in snapshot.held if view.is_idle and view.model in beside]
        last = max(idle, key=place_of_shard, default=None)
        if last is not None and place_of_shard(last)[0] > place:
            found[last.batch_id, last.shard_no] = None
    return tuple(found)


def wanted_lines(snapshot: Snapshot, limits: Limits) -> dict[ModelKey, int]:
    """How many lines should wait for each model that an engine is ready for: enough until another shard is open."""
    wanted = {}
    for key, engines in _serving(snapshot.engines).items():
        by_engines = sum(
            max(limits.waiting_lines_min, limits.waiting_multiple * e.inflight_requests_max) for e in engines
        )
        seconds_per_line = snapshot.seconds_per_line.get(key, 0.0)
        by_rate = limits.waiting_seconds / seconds_per_line if seconds_per_line else 0.0
        wanted[key] = int(max(by_engines, by_rate))
    return wanted


def _serving(engines: Sequence[EngineView]) -> dict[ModelKey, list[EngineView]]:
    serving: dict[ModelKey, list[EngineView]] = defaultdict(list)
    for engine in engines:
        for key in engine.serves:
            serving[key].append(engine)
    return serving


def _roomiest(engines: Sequence[EngineView], room: Mapping[str, int]) -> str | None:
    return max((engine.name for engine in engines), key=lambda name: room[name], default=None)


def _is_free(shard: ShardRecord, now: float) -> bool:
    if shard.state is ShardState.READY:
        return True
    expired = shard.lease_expires_at is None or shard.lease_expires_at <= now
    return shard.state is ShardState.LEASED and expired


def _pauses(
    snapshot: Snapshot, shards_of: Mapping[str, Sequence[ShardRecord]]
) -> tuple[tuple[Pause, ...], tuple[str, ...]]:
    """A batch is paused when none of its open shards can run, and resumed as soon as one can.

    One without open shards waits to be composed: whether that can go on is not decided here.
    """
    pauses, resumes = [], []
    for batch in snapshot.batches:
        shards = shards_of.get(batch.id)
        if not shards:
            continue
        reasons = [snapshot.disk_problem or snapshot.outages.get(model_key(shard)) for shard in shards]
        reason = snapshot.waits.get(batch.id) or (reasons[0] if all(reasons) else None)
        if reason is not None and reason != batch.pause_reason:
            pauses.append(Pause(batch.id, reason))
        elif reason is None and batch.paused_at is not None:
            resumes.append(batch.id)
    return tuple(pauses), tuple(resumes)
