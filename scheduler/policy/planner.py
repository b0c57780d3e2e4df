"""What the next tick does: which shards to lease, which batches to pause or resume, in what order batches run.

Least slack first. A batch's next shard is leased only when the lines already waiting for its model, of batches at
least as urgent, would soon be used up: so little is held that a more urgent batch never waits behind much.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from scheduler.facts.deadlines import slack_seconds
from store.records import BatchRecord, ShardRecord, ShardState


@dataclass(frozen=True, slots=True)
class ModelKey:
    """A pinned model: what a shard runs on."""

    id: str
    revision: str


@dataclass(frozen=True, slots=True)
class EngineView:
    """An engine that is ready."""

    name: str
    serves: frozenset[ModelKey]
    inflight_requests_max: int


@dataclass(frozen=True, slots=True)
class HeldView:
    """A shard that this scheduler holds; `waiting` lines of it are not in flight yet."""

    batch_id: str
    shard_no: int
    model: ModelKey
    waiting: int


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
    `waits` has the batches that must not run now, with the reason for people.
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


@dataclass(frozen=True, slots=True)
class Pause:
    batch_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """`ranking` has the ids of all batches in progress, least slack first."""

    ranking: tuple[str, ...]
    leases: tuple[ShardRecord, ...]
    pauses: tuple[Pause, ...]
    resumes: tuple[str, ...]


def model_key(shard: ShardRecord) -> ModelKey:
    return ModelKey(shard.model, shard.revision)


def plan(snapshot: Snapshot, limits: Limits) -> Plan:
    shards_of: dict[str, list[ShardRecord]] = defaultdict(list)
    for shard in snapshot.shards:
        shards_of[shard.batch_id].append(shard)
    ranking = rank(snapshot.batches, now=snapshot.now, seconds_per_line=snapshot.seconds_per_line)
    pauses, resumes = _pauses(snapshot, shards_of)
    leases = () if snapshot.disk_problem else _leases(snapshot, limits, ranking, shards_of)
    return Plan(ranking, leases, pauses, resumes)


def rank(batches: Sequence[BatchRecord], *, now: float, seconds_per_line: Mapping[ModelKey, float]) -> tuple[str, ...]:
    """Least slack first; equal slack in the order given (oldest first)."""

    def slack(batch: BatchRecord) -> float:
        rates = [seconds_per_line.get(ModelKey(pin.id, pin.revision), 0.0) for pin in batch.models.values()]
        return slack_seconds(batch, now=now, seconds_per_line=max(rates, default=0.0))

    return tuple(batch.id for batch in sorted(batches, key=slack))


def _leases(
    snapshot: Snapshot, limits: Limits, ranking: Sequence[str], shards_of: Mapping[str, Sequence[ShardRecord]]
) -> tuple[ShardRecord, ...]:
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
    leases = []
    for batch_id in ranking:
        if batch_id in snapshot.waits:
            continue
        for key, lines in waiting[batch_id].items():
            ahead[key] += lines
        for shard in shards_of.get(batch_id, ()):
            key = model_key(shard)
            if (batch_id, shard.shard_no) in held or not _is_free(shard, snapshot.now):
                continue
            name = _roomiest(serving.get(key, ()), room)
            if name is None or room[name] <= 0 or ahead[key] >= wanted[key]:
                continue
            room[name] -= 1
            ahead[key] += shard.lines
            leases.append(shard)
    return tuple(leases)


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
