"""Which models are on their devices now, and what is said of those that are not. Pure.

A model is led when its engines come and go: by the clock (its hours), and in turns with the other models of its turn
group, which do not fit on the device together. A group's lines run model by model, since a change of turn costs a
start.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from itertools import combinations

from scheduler.facts.deadlines import slack_seconds
from scheduler.facts.hours import Hours, next_change, open_at
from scheduler.facts.windows import Calendar
from store.records import BatchRecord, ShardRecord


class Release(StrEnum):
    """How a model gives its device back: `sleep` keeps the process (CUDA), `stop` ends it."""

    SLEEP = "sleep"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Life:
    """One led model and its engines. `turns` names its turn group. When it goes, what is in flight has `drain_seconds`
    to finish."""

    model: str
    engines: tuple[str, ...]
    hours: Hours = Hours.OFF_PEAK
    release: Release = Release.STOP
    turns: str | None = None
    drain_seconds: float = 20.0


@dataclass(frozen=True, slots=True)
class TurnLimits:
    """A turn lasts at least `seconds_min`, and `start_multiple` times what the next model's start takes: most of the
    time is work. It ends after `seconds_max` when another model of the group has work too."""

    seconds_max: float = 1800.0
    seconds_min: float = 120.0
    start_multiple: float = 5.0


@dataclass(frozen=True, slots=True)
class Lives:
    """All led models, in the order of the configuration, and what they follow."""

    models: tuple[Life, ...] = ()
    calendar: Calendar = field(default_factory=Calendar)
    limits: TurnLimits = TurnLimits()

    @property
    def engines(self) -> frozenset[str]:
        return frozenset(engine for life in self.models for engine in life.engines)


@dataclass(frozen=True, slots=True)
class Turn:
    """The model whose turn it is in a group, and since when."""

    model: str
    since_at: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """`reason` is for people and empty when the model is here; `back_at` is when it comes back, if the clock says."""

    here: bool
    reason: str = ""
    back_at: float | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    verdicts: Mapping[str, Verdict]
    turns: Mapping[str, Turn]


def decide(
    lives: Lives,
    *,
    now: float,
    slack: Mapping[str, float],
    busy: frozenset[str],
    turns: Mapping[str, Turn],
    start_seconds: Mapping[str, float],
    stuck: Collection[str] = (),
) -> Decision:
    """`slack` has the models that batch work waits for, with the least slack of its batches; `busy` those that answer
    online requests now; `turns` the turns so far; `start_seconds` what a model's start takes; `stuck` the models of
    which no engine is ready."""
    open_now = {life.model for life in lives.models if open_at(life.hours, lives.calendar, now)}
    after: dict[str, Turn] = {}
    for group, members in groups_of(lives.models).items():
        candidates = [life.model for life in members if life.model in open_now]
        turn = _turn(candidates, turns.get(group), lives.limits, now, slack, busy, start_seconds, stuck)
        if turn is not None:
            after[group] = turn
    verdicts = {life.model: _verdict(life, lives.calendar, now, open_now, after) for life in lives.models}
    return Decision(verdicts, after)


def wanted_models(
    batches: Iterable[BatchRecord],
    shards: Iterable[ShardRecord],
    *,
    waits: Collection[str],
    now: float,
    seconds_per_line: Mapping[str, float],
) -> dict[str, float]:
    """The models that open shards need, each with the least slack of their batches. Batches that must not run now
    (`waits`) ask for nothing. `seconds_per_line` is by model id."""
    by_id = {batch.id: batch for batch in batches if batch.id not in waits}
    found: dict[str, float] = {}
    for batch_id, model in {(shard.batch_id, shard.model) for shard in shards}:
        if (batch := by_id.get(batch_id)) is not None:
            slack = slack_seconds(batch, now=now, seconds_per_line=seconds_per_line.get(model, 0.0))
            found[model] = min(slack, found.get(model, slack))
    return found


def groups_of(lives: Sequence[Life]) -> dict[str, list[Life]]:
    groups: dict[str, list[Life]] = {}
    for life in lives:
        if life.turns is not None:
            groups.setdefault(life.turns, []).append(life)
    return groups


def apart(lives: Sequence[Life]) -> dict[str, frozenset[str]]:
    """For each engine those that are never there together with it: one starts only when they are gone."""
    found: dict[str, set[str]] = {engine: set() for life in lives for engine in life.engines}
    for one, other in combinations(lives, 2):
        takes_turns = one.turns is not None and one.turns == other.turns
        if takes_turns or one.hours.opposite is other.hours:
            for engine in one.engines:
                found[engine].update(other.engines)
            for engine in other.engines:
                found[engine].update(one.engines)
    return {engine: frozenset(others) for engine, others in found.items()}


def _turn(
    candidates: Sequence[str],
    turn: Turn | None,
    limits: TurnLimits,
    now: float,
    slack: Mapping[str, float],
    busy: frozenset[str],
    start_seconds: Mapping[str, float],
    stuck: Collection[str],
) -> Turn | None:
    """Whose turn it is: the one with the least slack, else the first of the group (its home model).

    One that is far behind its deadline, or whose engine does not come, would have the least slack for ever: it hurries
    nobody, and its turn ends like any other.
    """
    if not candidates:
        return None

    def is_lost(model: str) -> bool:
        return model in stuck or slack[model] < -limits.seconds_max

    wanting = sorted((model for model in candidates if model in slack), key=lambda model: slack[model])
    best = wanting[0] if wanting else candidates[0]
    if turn is None or turn.model not in candidates:
        return Turn(best, now)
    held, has_work = now - turn.since_at, turn.model in slack or turn.model in busy
    if best == turn.model and best in slack and held >= limits.seconds_max and is_lost(best):
        best = next((model for model in wanting if model != turn.model), best)
    if best == turn.model or held < _least_seconds(limits, start_seconds.get(best, 0.0)):
        return turn
    if not has_work or held >= limits.seconds_max:
        return Turn(best, now)
    hurries = -limits.seconds_max <= slack.get(best, limits.seconds_max) < limits.seconds_max - held
    return Turn(best, now) if hurries and slack[best] < slack.get(turn.model, float("inf")) else turn


def _least_seconds(limits: TurnLimits, start_seconds: float) -> float:
    return min(limits.seconds_max, max(limits.seconds_min, limits.start_multiple * start_seconds))


def _verdict(life: Life, calendar: Calendar, now: float, open_now: set[str], turns: Mapping[str, Turn]) -> Verdict:
    if life.model not in open_now:
        return _closed(life, calendar, now)
    turn = turns.get(life.turns) if life.turns is not None else None
    if turn is None or turn.model == life.model:
        return Verdict(True)
    return Verdict(False, f"model {turn.model} has its turn in '{life.turns}'")


def _closed(life: Life, calendar: Calendar, now: float) -> Verdict:
    kind = "in off-peak windows" if life.hours is Hours.OFF_PEAK else "outside off-peak windows"
    back_at = next_change(life.hours, calendar, now)
    if back_at is None:
        return Verdict(False, f"it runs {kind} only, and there is no such time within a year")
    local = datetime.fromtimestamp(back_at, calendar.zone)
    return Verdict(False, f"until {local:%a %d %b %H:%M} ({calendar.zone}): it runs {kind} only", back_at)
