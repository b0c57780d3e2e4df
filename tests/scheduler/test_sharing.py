"""Batches side by side on a real scheduler: who gets the engine."""

from __future__ import annotations

import time as clock

from store import BatchStatus
from tests.scheduler.world import TestEngine, World, chats, running


async def test_a_small_batch_does_not_wait_for_a_large_one(world: World, engine: TestEngine) -> None:
    engine.answer_seconds = 0.1
    large = await world.batch(chats(3_000))
    async with running(world.scheduler()):
        await world.until(large, lambda seen: seen.counts.completed >= 100)
        small = await world.batch(chats(40))
        ended = await world.ended(small)
        left = await world.get(large)
    assert ended.status is BatchStatus.COMPLETED
    assert left.status is BatchStatus.IN_PROGRESS
    assert left.counts.completed < 2_000


async def test_a_batch_that_is_due_gets_in_although_another_has_all_shards_open(
    world: World, engine: TestEngine
) -> None:
    """Shards of 16 lines, 8 of them open, and 32 lines in flight, which are held back: no shard of the first ends."""
    first = await world.batch(chats(3_000))
    engine.hold()
    async with running(world.scheduler(waiting_lines_min=100)):
        await world.until(first, lambda seen: engine.inflight == 32)
        soon = await world.batch(chats(16), expires_at=int(clock.time()) + 3600)
        engine.let_go()
        engine.answer_seconds = 0.2
        ended = await world.ended(soon)
        left = await world.get(first)
    assert ended.counts.completed == 16
    assert left.counts.completed < 1_000
