"""Explanations as a running scheduler writes them: there soon, true, and not written again and again."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from engine.protocol import EngineState
from scheduler.actors.explainer import Explainer
from scheduler.facts.windows import Calendar, Window
from scheduler.policy.holding import Hold
from scheduler.policy.planner import Limits, Snapshot, plan
from store.records import HELD, BatchRecord, BatchStatus
from store.schedule import Schedule, decode
from tests.scheduler.world import TestEngine, World, chats, running


def says(code: str) -> Callable[[BatchRecord], bool]:
    return lambda found: found.schedule is not None and decode(found.schedule).code == code


async def explained(world: World, batch: BatchRecord, code: str) -> Schedule:
    found = await world.until(batch, says(code))
    assert found.schedule is not None
    return decode(found.schedule)


async def test_a_batch_that_runs_says_so_and_the_one_behind_it_whom_it_waits_for(
    world: World, engine: TestEngine
) -> None:
    engine.hold()
    first = await world.batch(chats(200))
    async with running(world.scheduler(shards_open_max=1)):
        runs = await explained(world, first, "runs")
        assert (runs.place, runs.places, runs.ahead) == (1, 1, ())
        assert [(sight.name, sight.state) for sight in runs.engines] == [(engine.name, "ready")]
        second = await world.batch(chats(400))
        behind = await explained(world, second, "behind")
        assert (behind.place, behind.places, behind.ahead) == (2, 2, (first.id,))
        assert behind.turn is not None
        engine.let_go()
        for batch in (first, second):
            assert (await world.ended(batch)).status is BatchStatus.COMPLETED


async def test_a_person_an_engine_and_a_window_are_named_while_they_hold_a_batch_up(
    world: World, engine: TestEngine
) -> None:
    opens = datetime.now(UTC) + timedelta(hours=3)
    later = Window("later", frozenset(range(7)), opens.time(), (opens + timedelta(hours=2)).time(), UTC)
    batch = await world.batch(chats(10), expires_at=int(time.time()) + 86_400)
    async with running(world.scheduler(hold=Hold(Calendar((later,)), 1.25, 60.0))):
        waits = await explained(world, batch, "off_peak")
        assert "later" in waits.reason
        assert waits.window is not None
        assert waits.window.opens_at is not None
        await world.store.batches.hold("t", batch.id, reason=HELD, at=int(time.time()))
        assert (await explained(world, batch, "held")).reason == HELD
    await world.store.batches.let_go("t", batch.id)
    engine.change(EngineState.DOWN, "no memory left")
    async with running(world.scheduler()):
        away = await explained(world, batch, "engine")
        assert "no memory left" in away.reason
        engine.change(EngineState.READY)
        ended = await world.ended(batch)
    assert ended.status is BatchStatus.COMPLETED


async def test_what_stays_as_it_is_is_not_written_again_not_even_after_a_restart(
    world: World, engine: TestEngine
) -> None:
    engine.hold()
    batch = await world.batch(chats(10))
    async with running(world.scheduler()):
        await explained(world, batch, "runs")
    explainers = [Explainer(world.store, world.registry, pressures=tuple) for _ in range(2)]
    written = []
    for explainer, now, disk_problem in (
        (explainers[0], 1_000, None),
        (explainers[0], 1_001, None),
        (explainers[1], 1_002, None),
        (explainers[1], 1_003, "The disk is below its reserve."),
        (explainers[1], 1_004, "The disk is below its reserve."),
    ):
        found = await world.get(batch)
        seen = Snapshot(now, [found], (), (), (), {}, disk_problem, {})
        planned = plan(seen, Limits(1, 1.0, 1))
        await explainer.report([found], seen, planned, inflight={}, rescued={})
        found = await world.get(batch)
        assert found.schedule is not None
        written.append(decode(found.schedule).at)
    assert written == [1_000, 1_000, 1_000, 1_003, 1_003]


async def test_the_last_of_a_long_queue_is_not_passed_over_each_time(world: World) -> None:
    batches = [await world.batch(chats(2)) for _ in range(3)]
    explainer = Explainer(world.store, world.registry, pressures=tuple, writes_max=1)
    for now in (1_000, 1_001, 1_002):
        going = [replace(batch, status=BatchStatus.IN_PROGRESS) for batch in batches]
        seen = Snapshot(now, going, (), (), (), {}, f"The disk is full, as at {now}.", {})
        await explainer.report(going, seen, plan(seen, Limits(1, 1.0, 1)), inflight={}, rescued={})
    found = [await world.get(batch) for batch in batches]
    assert sorted(decode(batch.schedule).at for batch in found if batch.schedule) == [1_000, 1_001, 1_002]
