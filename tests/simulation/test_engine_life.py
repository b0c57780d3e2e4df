"""A week of two models that share a device, one by night and one by day, in virtual time over a change of clocks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest

from engine.protocol import EngineState
from engine.registry import Registry
from engine.simulated import simulated_model
from engine.supervisor import Supervised
from scheduler import Scheduler
from scheduler.facts.hours import Hours
from scheduler.policy.life import Life, Lives
from store import BatchRecord, BatchStatus, StoreSettings, open_store
from tests.scheduler.world import World, chat, running
from tests.simulation.month import CALENDAR, DAY, HOUR, SETTINGS, SLOW, ZONE, WatchedEngine, berlin
from tests.simulation.virtual_time import run_in_virtual_time, virtual_loop

START_AT = berlin(24, 12)  # a Saturday; the clocks go back in its night
LOOK_SECONDS = 60.0
DRAIN_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Told:
    """What the week came to. `seen` are the states of both engines at every change."""

    batches: dict[str, BatchRecord]
    outputs: dict[str, list[str]]
    asked: dict[str, list[float]]
    seen: list[tuple[float, dict[str, EngineState]]]
    incarnations: dict[str, int]


async def _week(folder: Path) -> Told:
    loop = virtual_loop()
    begun = loop.time()

    def now() -> float:
        return START_AT + loop.time() - begun

    lives = Lives(
        (
            Life("large", ("large",), Hours.OFF_PEAK, drain_seconds=DRAIN_SECONDS),
            Life("small", ("small",), Hours.PEAK, drain_seconds=DRAIN_SECONDS),
        ),
        CALENDAR,
    )
    engines = {name: WatchedEngine(name, models=(simulated_model(name, SLOW),), now=now) for name in ("large", "small")}
    kept = [Supervised(engine, now=now, monotonic=loop.time, poll_seconds=6 * HOUR) for engine in engines.values()]
    registry = Registry(kept, led=lives.engines)
    seen: list[tuple[float, dict[str, EngineState]]] = []
    registry.on_change(lambda: seen.append((now(), {one.name: one.engine.status().state for one in kept})))
    settings = replace(SETTINGS, life_look_seconds=LOOK_SECONDS)
    with loop.at_real_pace():
        store = await open_store(folder, settings=StoreSettings(disk_reserve_bytes=1024, index_workers_max=1), now=now)
    world = World(store, registry, settings)
    scheduler = Scheduler(store, registry, settings, now=now, monotonic=loop.time, holder="one", lives=lives)
    try:
        async with running(scheduler):
            batches = {}
            for name, lines in (("large", 450), ("small", 700)):
                with loop.at_real_pace():
                    batches[name] = await world.batch([chat(f"row-{no}", f"{no}", model=name) for no in range(lines)])
            scheduler.wake()
            await asyncio.sleep(7 * DAY)
            found = {name: await world.get(batch) for name, batch in batches.items()}
            outputs = {name: [line["custom_id"] for line in (await world.results(b))[0]] for name, b in found.items()}
            incarnations = {one.name: one.status().incarnation for one in kept}
    finally:
        await registry.stop()
        with loop.at_real_pace():
            await store.close()
    return Told(found, outputs, {name: [at for at, _ in e.asked] for name, e in engines.items()}, seen, incarnations)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    return run_in_virtual_time(_week(tmp_path_factory.mktemp("week") / "data"))


def _is_night(at: float) -> bool:
    return CALENDAR.open_at(at) is not None


def test_both_batches_are_completed_in_order_and_nothing_is_lost(told: Told) -> None:
    for name, batch in told.batches.items():
        assert (batch.status, batch.counts.failed) == (BatchStatus.COMPLETED, 0)
        assert told.outputs[name] == [f"row-{no}" for no in range(batch.counts.total)]


@pytest.mark.parametrize(("model", "is_in_its_hours"), [("large", _is_night), ("small", lambda at: not _is_night(at))])
def test_a_model_is_asked_in_its_hours_only(told: Told, model: str, is_in_its_hours: Callable[[float], bool]) -> None:
    """An end is noticed with the next look."""
    outside = [at for at in told.asked[model] if not is_in_its_hours(at) and not is_in_its_hours(at - LOOK_SECONDS)]
    assert [datetime.fromtimestamp(at, ZONE).isoformat() for at in outside[:3]] == []
    assert len({datetime.fromtimestamp(at - 12 * HOUR, ZONE).date() for at in told.asked[model]}) >= 2


def test_the_two_are_never_on_the_device_together(told: Told) -> None:
    together = [at for at, states in told.seen if set(states.values()) == {EngineState.READY}]
    assert together == []


def test_a_device_changes_hands_within_the_drain_and_two_looks(told: Told) -> None:
    edges = [
        one for span in CALENDAR.intervals(START_AT + 1, START_AT + 7 * DAY) for one in (span.start_at, span.end_at)
    ]
    for edge in edges[:-1]:
        ready_again = next(
            at for at, states in told.seen if at >= edge and EngineState.READY in states.values() and _moved(told, at)
        )
        assert ready_again - edge <= DRAIN_SECONDS + 2 * LOOK_SECONDS


def _moved(told: Told, at: float) -> bool:
    """Whether an engine became ready at this moment."""
    for (_, before), (moment, after) in pairwise(told.seen):
        if moment == at and any(after[name] is EngineState.READY is not before[name] for name in after):
            return True
    return False


def test_every_night_and_every_day_has_its_start(told: Told) -> None:
    assert told.incarnations == {"large": 7, "small": 8}
