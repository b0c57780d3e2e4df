"""Writes with every batch why it runs or waits: what has changed, once per report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from engine.registry import Registry
from scheduler.actors.throttle import PressureView
from scheduler.policy.explaining import Place, Seen, differs, explain
from scheduler.policy.planner import ModelKey, Plan, Snapshot
from scheduler.policy.ranking import Ranked
from store import Store
from store.records import BatchRecord
from store.schedule import EngineSight, Schedule, decode

WRITES_MAX = 500
"""Explanations that one report writes; further changes come with the next one."""


class Explainer:
    def __init__(
        self,
        store: Store,
        registry: Registry,
        *,
        pressures: Callable[[], Sequence[PressureView]],
        writes_max: int = WRITES_MAX,
    ) -> None:
        self._writes_max = writes_max
        self._store = store
        self._registry = registry
        self._pressures = pressures
        self._written: dict[str, Schedule] = {}

    async def report(
        self,
        batches: Sequence[BatchRecord],
        snapshot: Snapshot,
        planned: Plan,
        *,
        inflight: Mapping[str, int],
        rescued: Mapping[str, str],
    ) -> None:
        """`batches` have not ended; of those in progress the last look at the world and the plan after it tell."""
        found = explain(
            Seen(
                now=snapshot.now,
                batches=batches,
                order=[place_of(ranked) for ranked in planned.ranked],
                waits=snapshot.waits,
                rescued=rescued,
                outages=snapshot.outages,
                disk_problem=snapshot.disk_problem,
                inflight=inflight,
                engines=self._engines(),
                serving=self._serving(),
                calendar=snapshot.calendar,
                ready_at=self._ready_at(snapshot.outages),
                served=snapshot.served,
            )
        )
        self._forget(found)
        self._remember(batches)
        changed = [(name, one) for name, one in found.items() if differs(self._written.get(name), one)]
        changed.sort(key=lambda item: self._written_at(item[0]))  # a queue that moves changes all of them every time
        changed = changed[: self._writes_max]
        if changed:
            await self._store.batches.show_schedules({name: one.encode() for name, one in changed})
        self._written |= dict(changed)

    def _written_at(self, batch_id: str) -> int:
        before = self._written.get(batch_id)
        return 0 if before is None else before.at

    def _engines(self) -> dict[str, EngineSight]:
        pressures = {view.engine: view for view in self._pressures()}
        return {
            engine.name: _sight(engine.name, engine.status().state.value, engine.status().reason, pressures)
            for engine in self._registry.engines()
        }

    def _serving(self) -> dict[ModelKey, list[str]]:
        found: dict[ModelKey, list[str]] = {}
        for engine in self._registry.engines():
            for model in engine.models():
                found.setdefault(ModelKey(model.id, model.revision), []).append(engine.name)
        return found

    def _ready_at(self, keys: Iterable[ModelKey]) -> dict[ModelKey, float]:
        known = {key: self._registry.ready_at(key.id, key.revision) for key in keys}
        return {key: at for key, at in known.items() if at is not None}

    def _forget(self, found: Mapping[str, Schedule]) -> None:
        for gone in self._written.keys() - found.keys():
            del self._written[gone]

    def _remember(self, batches: Iterable[BatchRecord]) -> None:
        """What a former process wrote need not be written again."""
        for batch in batches:
            if batch.id not in self._written and batch.schedule is not None:
                self._written[batch.id] = decode(batch.schedule)


def _sight(name: str, state: str, reason: str | None, pressures: Mapping[str, PressureView]) -> EngineSight:
    view = pressures.get(name)
    if view is None:
        return EngineSight(name=name, state=state, reason=reason)
    return EngineSight(
        name=name,
        state=state,
        reason=reason,
        online=view.online,
        neighbour=view.neighbour,
        inflight=view.inflight,
        inflight_max=view.cap,
        pressure=None if view.cap is None else view.reason,
    )


def place_of(ranked: Ranked) -> Place:
    return Place(ranked.batch_id, ranked.turn.value, ranked.work_seconds, ranked.spare_seconds, ranked.share)
