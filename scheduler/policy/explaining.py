"""Why each batch runs or waits, in a sentence and in figures. Pure: what is seen of the world in, explanations out."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from scheduler.facts.capacity import ALWAYS_SERVED, Served
from scheduler.facts.hours import Hours
from scheduler.facts.windows import CHUNK_SECONDS, HORIZON_SECONDS, Calendar, Interval
from scheduler.policy.planner import ModelKey
from store.records import HELD, BatchRecord
from store.schedule import AHEAD_SHOWN_MAX, RUNS, WAITS, EngineSight, Schedule, WindowSight, of_status

TURNS: Mapping[str, str] = {
    "short_first": "All that is due before it can wait for it: short ones first.",
    "behind_its_share": "Its tenant has had more than its share of the engines lately: others go first.",
    "by_deadline": "Time is short for what is due before it: by deadline.",
    "deadline_out_of_reach": "Its deadline cannot be kept at the present rate: it runs when nobody else would be late.",
    "waits": "It keeps its place while it waits.",
}
"""Why a batch has its place, by the code of its turn."""


@dataclass(frozen=True, slots=True)
class Place:
    """One batch in the order in which they run. `work_seconds` None: no rate of its models is known yet."""

    batch_id: str
    turn: str | None = None
    work_seconds: float | None = None
    spare_seconds: float | None = None
    share: float | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at the world. `batches` have not ended; `order` has those in progress, first ones first.

    `waits` has the batches that must not run now, and why, `rescued` those that run now although they would wait for
    off-peak hours; `outages` says it of models without a ready engine.
    `inflight` counts each batch's lines that an engine has. `serving` names the engines of each model. `ready_at` is
    when the engine of a model that cannot run should be ready, where that is known, and `served` tells of the hours of
    models that come and go, by id.
    """

    now: float
    batches: Sequence[BatchRecord]
    order: Sequence[Place]
    waits: Mapping[str, str] = field(default_factory=dict)
    rescued: Mapping[str, str] = field(default_factory=dict)
    outages: Mapping[ModelKey, str] = field(default_factory=dict)
    disk_problem: str | None = None
    inflight: Mapping[str, int] = field(default_factory=dict)
    engines: Mapping[str, EngineSight] = field(default_factory=dict)
    serving: Mapping[ModelKey, Sequence[str]] = field(default_factory=dict)
    calendar: Calendar = field(default_factory=Calendar)
    ready_at: Mapping[ModelKey, float] = field(default_factory=dict)
    served: Mapping[str, Served] = field(default_factory=dict)


def explain(seen: Seen) -> dict[str, Schedule]:
    """By batch id, of every batch that is seen."""
    by_id = {batch.id: batch for batch in seen.batches}
    queues: dict[ModelKey, _Queue] = defaultdict(_Queue)
    window, open_time = window_of(seen.calendar, seen.now), OpenTime(seen.calendar, seen.now)
    found = {}
    for number, place in enumerate(seen.order, start=1):
        batch = by_id.get(place.batch_id)
        if batch is None:
            continue
        found[batch.id] = _in_progress(batch, place, number, seen, queues, window, open_time)
        for key in models_of(batch):
            queues[key].add(batch, place)
    for batch in seen.batches:
        if batch.id not in found:
            found[batch.id] = of_status(batch, at=int(seen.now))
    return found


def models_of(batch: BatchRecord) -> list[ModelKey]:
    return sorted({ModelKey(pin.id, pin.revision) for pin in batch.models.values()}, key=lambda key: key.id)


@dataclass(slots=True)
class _Queue:
    """What comes before in the order for one model."""

    total: int = 0
    seconds: float | None = 0.0
    of_tenant: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, batch: BatchRecord, place: Place) -> None:
        self.total += 1
        known = self.seconds is not None and place.work_seconds is not None
        self.seconds = self.seconds + place.work_seconds if known else None  # type: ignore[operator]
        own = self.of_tenant[batch.tenant]
        if len(own) < AHEAD_SHOWN_MAX:
            own.append(batch.id)


def _in_progress(
    batch: BatchRecord,
    place: Place,
    number: int,
    seen: Seen,
    queues: Mapping[ModelKey, _Queue],
    window: WindowSight | None,
    open_time: OpenTime,
) -> Schedule:
    keys = models_of(batch)
    longest = max((queues[key] for key in keys), key=lambda queue: queue.total, default=_Queue())
    engines = [seen.engines[name] for key in keys for name in seen.serving.get(key, ()) if name in seen.engines]
    code, reason = _reason(batch, seen, keys, longest.total, engines)
    starts_at, ends_at = _estimate(batch, place, seen, code, longest.seconds, open_time)
    return Schedule(
        at=int(seen.now),
        state=RUNS if code in RUNNING else WAITS,
        code=code,
        reason=reason,
        place=number,
        places=len(seen.order),
        ahead_total=longest.total,
        ahead=tuple(longest.of_tenant.get(batch.tenant, ())),
        ahead_seconds=_whole(longest.seconds),
        turn=place.turn,
        turn_reason=None if place.turn is None else TURNS.get(place.turn),
        work_seconds=_whole(place.work_seconds),
        spare_seconds=_whole(place.spare_seconds),
        share=place.share,
        inflight=seen.inflight.get(batch.id, 0),
        window=window,
        disk=seen.disk_problem,
        engines=tuple({engine.name: engine for engine in engines}.values()),
        starts_at=starts_at,
        ends_at=ends_at,
    )


RUNNING = frozenset({"runs", "beside_online"})


def _reason(
    batch: BatchRecord, seen: Seen, keys: Collection[ModelKey], ahead: int, engines: Sequence[EngineSight]
) -> tuple[str, str]:
    """The one thing that decides, and how it reads."""
    inflight = seen.inflight.get(batch.id, 0)
    outages = [seen.outages.get(key) for key in keys]
    if batch.held_at is not None:
        return "held", HELD
    if batch.id in seen.waits:
        return "off_peak", seen.waits[batch.id]
    if seen.disk_problem is not None:
        return "disk", seen.disk_problem
    if not inflight and outages and all(outages):
        return "engine", " ".join(f"{text.rstrip('.')}." for text in dict.fromkeys(outages) if text)
    rescue = [seen.rescued[batch.id]] if batch.id in seen.rescued else []
    pressed = [engine for engine in engines if engine.pressure is not None and engine.online + engine.neighbour]
    if inflight:
        running = " ".join([f"Runs, {_counted(inflight, 'line')} of it in flight.", *rescue])
        return ("beside_online", f"{running} {_pressures(pressed)}") if pressed else ("runs", running)
    if pressed and not ahead:
        return "online", f"Its next lines wait for room. {_pressures(pressed)}"
    if ahead:
        return "behind", f"Waits behind {_counted(ahead, 'batch', 'batches')} on the same model."
    return "next", "It is next: its lines are being taken up, or its last results written."


def _pressures(engines: Sequence[EngineSight]) -> str:
    """What online requests leave, engine by engine."""
    said = []
    for engine in engines:
        bound = "" if engine.inflight_max is None else f" and may have {engine.inflight_max}"
        said.append(
            f"Online requests come first on {engine.name}: it has {_counted(engine.inflight, 'batch request')}{bound}."
        )
    return " ".join(said)


def _estimate(
    batch: BatchRecord, place: Place, seen: Seen, code: str, ahead_seconds: float | None, open_time: OpenTime
) -> tuple[int | None, int | None]:
    """When it should start and end: after all that is ahead, in open windows only if it waits for one or its model is
    there in them only. No start for what runs; neither for what waits for somebody, since nobody knows how long that
    takes. An engine that is away or starting says itself when it should be ready."""
    if code in RUNNING:
        known = seen.now + place.work_seconds if place.work_seconds is not None else None
        return None, batch.eta_at if batch.eta_at is not None else _at(known)
    since: float | None = seen.now
    if code == "engine":
        since = min((seen.ready_at[key] for key in models_of(batch) if key in seen.ready_at), default=None)
    if code not in ("off_peak", "behind", "next", "online", "engine") or ahead_seconds is None or since is None:
        return None, None
    off_peak_only = any(seen.served.get(key.id, ALWAYS_SERVED).hours is Hours.OFF_PEAK for key in models_of(batch))
    hours = open_time if code == "off_peak" or off_peak_only else OpenTime(Calendar(), seen.now)
    starts_at = _at(hours.after(ahead_seconds, since=since))
    if place.work_seconds is None:
        return starts_at, None
    return starts_at, _at(hours.after(ahead_seconds + place.work_seconds, since=since))


class OpenTime:
    """When so many seconds of a calendar's windows will have passed. What has been looked up is kept: a long queue asks
    again and again."""

    def __init__(self, calendar: Calendar, now: float) -> None:
        self._calendar = calendar
        self._now = now
        self._looked_until = now
        self._found: list[Interval] = []
        self._passed: list[float] = []
        """Seconds of open time from `now` until the end of each interval."""

    def after(self, seconds: float, *, since: float) -> float | None:
        """With no seconds to wait for, when the next window is open. None when that is not within sight. `since` is not
        before `now`."""
        if self._calendar.is_always_open:
            return since + seconds
        wanted = seconds + self._passed_until(since)
        while self._total() <= wanted:
            if not self._look_further():
                return None
        place = bisect_right(self._passed, wanted)
        return self._found[place].start_at + wanted - (self._passed[place - 1] if place else 0.0)

    def _passed_until(self, at: float) -> float:
        while self._looked_until < at:
            if not self._look_further():
                break
        place = bisect_right(self._found, at, key=lambda one: one.start_at) - 1
        return 0.0 if place < 0 else self._passed[place] - max(0.0, self._found[place].end_at - at)

    def _total(self) -> float:
        return self._passed[-1] if self._passed else 0.0

    def _look_further(self) -> bool:
        """False at the end of sight."""
        if self._looked_until >= self._now + HORIZON_SECONDS:
            return False
        until = self._looked_until + CHUNK_SECONDS
        for one in self._calendar.intervals(self._looked_until, until):
            self._passed.append(self._total() + one.end_at - one.start_at)
            self._found.append(one)
        self._looked_until = until
        return True


def window_of(calendar: Calendar, now: float) -> WindowSight | None:
    """None where no windows are set."""
    if calendar.is_always_open:
        return None
    current = calendar.open_at(now)
    if current is not None:
        return WindowSight(name=current.name, closes_at=int(current.end_at))
    opens_at = calendar.next_opening(now)
    if opens_at is None:
        return None
    return WindowSight(name=calendar.intervals(opens_at, opens_at + 1)[0].name, opens_at=int(opens_at))


SHIFT_SECONDS_MIN = 60.0
SHIFT_SHARE = 0.1


def differs(before: Schedule | None, after: Schedule) -> bool:
    """Whether the difference is worth a write: estimates flicker, and nobody plans by the second."""
    if before is None or _fixed(before) != _fixed(after):
        return True
    ahead = max(0.0, (after.ends_at or after.starts_at or after.at) - after.at)
    tolerance = max(SHIFT_SECONDS_MIN, SHIFT_SHARE * ahead)
    return any(
        _shifted(getattr(before, name), getattr(after, name), tolerance)
        for name in ("starts_at", "ends_at", "work_seconds", "spare_seconds", "ahead_seconds")
    )


def _fixed(one: Schedule) -> tuple[object, ...]:
    """What is said without a figure that moves by itself."""
    engines = tuple((e.name, e.state, e.reason, e.pressure, bool(e.online), bool(e.neighbour)) for e in one.engines)
    sentence = None if one.code in RUNNING or one.code == "online" else one.reason
    return (one.state, one.code, sentence, one.place, one.places, one.ahead, one.turn, one.window, one.disk, engines)


def _shifted(before: float | None, after: float | None, tolerance: float) -> bool:
    if before is None or after is None:
        return before is not after
    return abs(before - after) > tolerance


def _counted(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _whole(seconds: float | None) -> float | None:
    return None if seconds is None else float(round(seconds))


def _at(moment: float | None) -> int | None:
    return None if moment is None else math.ceil(moment)
