"""A person's pause, seen from the scheduler: it frees the engine, loses nothing, and only a person ends it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from engine.protocol import EngineState
from store.records import HELD, BatchStatus
from tests.scheduler.world import TestEngine, World, chats, poll, running


async def hold(world: World, batch_id: str) -> None:
    assert await world.store.batches.hold("t", batch_id, reason=HELD, at=int(time.time())) is not None


async def test_a_pause_takes_what_is_in_flight_from_the_engine_and_loses_no_line(
    world: World, engine: TestEngine
) -> None:
    engine.hold()
    batch = await world.batch(chats(40))
    async with running(world.scheduler()):
        await poll(inflight(engine, 32))
        await hold(world, batch.id)
        await poll(inflight(engine, 0))
        paused = await world.get(batch)
        assert (paused.status, paused.pause_reason) == (BatchStatus.IN_PROGRESS, HELD)
        engine.let_go()
        other = await world.ended(await world.batch(chats(5)))
        assert other.status is BatchStatus.COMPLETED
        assert (await world.get(batch)).counts.completed == 0
        await world.store.batches.let_go("t", batch.id)
        ended = await world.ended(batch)
    output, errors = await world.results(ended)
    assert ([line["custom_id"] for line in output], errors) == ([f"row-{no}" for no in range(40)], [])


async def test_a_pause_from_before_validation_holds_once_the_batch_is_in_progress_and_over_a_restart(
    world: World, engine: TestEngine
) -> None:
    batch = await world.batch(chats(10))
    await hold(world, batch.id)
    for _ in range(2):
        async with running(world.scheduler()):
            paused = await world.until(batch, lambda found: found.paused_at is not None)
            assert paused.pause_reason == HELD
    assert engine.asked == []
    await world.store.batches.let_go("t", batch.id)
    async with running(world.scheduler()):
        assert (await world.ended(batch)).status is BatchStatus.COMPLETED


async def test_an_engine_that_comes_back_does_not_end_a_persons_pause(world: World, engine: TestEngine) -> None:
    batch = await world.batch(chats(10))
    await hold(world, batch.id)
    async with running(world.scheduler()):
        await world.until(batch, lambda found: found.pause_reason == HELD)
        engine.change(EngineState.DOWN, "gone")
        engine.change(EngineState.READY)
        other = await world.ended(await world.batch(chats(3)))
        assert other.status is BatchStatus.COMPLETED
        assert (await world.get(batch)).pause_reason == HELD
    assert len(engine.asked) == 3


async def test_resuming_does_not_hide_that_no_engine_is_there(world: World, engine: TestEngine) -> None:
    engine.change(EngineState.DOWN, "gone for good")
    batch = await world.batch(chats(10))
    await hold(world, batch.id)
    async with running(world.scheduler()):
        await world.until(batch, lambda found: found.pause_reason == HELD)
        await world.store.batches.let_go("t", batch.id)
        await world.until(batch, lambda found: "gone for good" in (found.pause_reason or ""))


async def test_a_paused_batch_expires_at_its_deadline_with_what_it_has(world: World, engine: TestEngine) -> None:
    batch = await world.batch(chats(10), expires_at=int(time.time()) + 2)
    await hold(world, batch.id)
    async with running(world.scheduler()):
        ended = await world.ended(batch)
    assert (ended.status, ended.held_at, ended.paused_at) == (BatchStatus.EXPIRED, None, None)
    assert engine.asked == []
    assert ended.counts.failed == 10


def inflight(engine: TestEngine, count: int) -> Callable[[], Awaitable[bool]]:
    async def is_so() -> bool:
        return engine.inflight == count

    return is_so
