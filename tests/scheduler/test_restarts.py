"""Stopped, cancelled, suspended: after any of it the batch ends with each result exactly once."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from store import BatchRecord, BatchStatus, ShardState, markers, open_store
from store.segments import scan
from tests.scheduler.world import SETTINGS, TestEngine, World, chats, running


async def test_stop_lets_what_is_in_flight_finish_and_frees_the_leases(world: World, engine: TestEngine) -> None:
    engine.hold()
    batch = await world.batch(chats(200))
    scheduler = world.scheduler()
    async with running(scheduler) as tasks:
        await world.until(batch, lambda _: engine.inflight == 32)
        asked = len(engine.asked)
        asyncio.get_running_loop().call_later(0.05, engine.let_go)
        await scheduler.stop(drain_seconds=30)
        assert tasks[0].done()
        assert (engine.inflight, len(engine.asked)) == (0, asked)
    shards = await world.store.work.shards(batch.id)
    assert {shard.state for shard in shards} <= {ShardState.READY, ShardState.SEALED}
    assert sum(shard.completed for shard in shards) == asked
    async with running(world.scheduler(holder="two")):
        ended = await world.ended(batch)
    assert ended.counts.completed == 200
    assert len(engine.asked) == 200, "a finished line was generated again"


async def test_stop_without_drain_cancels_what_is_in_flight(world: World, engine: TestEngine) -> None:
    engine.hold()
    batch = await world.batch(chats(40))
    scheduler = world.scheduler()
    async with running(scheduler):
        await world.until(batch, lambda _: engine.inflight == 32)
        await scheduler.stop(drain_seconds=0)
        assert engine.inflight == 0
    assert await world.store.work.leased(batch.id) == 0


@pytest.mark.parametrize("how", ["stop", "cancel"])
@pytest.mark.parametrize(
    "marker", ["intake.ordered", "intake.admitted", "shard.leased", "request.started", "append.synced"]
)
async def test_ended_at_any_step_it_leaves_no_lease_behind(world: World, how: str, marker: str) -> None:
    batch = await world.batch(chats(40))
    scheduler = world.scheduler()
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def end(name: str) -> None:
        if name == marker and not ended.is_set():
            ended.set()
            loop.call_soon_threadsafe(end_now)

    def end_now() -> None:
        if how == "cancel":
            tasks[0].cancel()
        else:
            tasks.append(asyncio.ensure_future(scheduler.stop(drain_seconds=5)))

    markers.install(end)
    try:
        async with running(scheduler) as tasks:
            await asyncio.wait(tasks)
    finally:
        markers.install(None)
    assert ended.is_set()
    assert await world.store.work.leased(batch.id) == 0
    async with running(world.scheduler(holder="two")):
        found = await world.ended(batch)
    assert found.counts.completed == 40


async def test_ten_random_cancellations_give_what_an_undisturbed_run_gives(world: World, engine: TestEngine) -> None:
    engine.answer_seconds = 0.004
    undisturbed = await world.batch(chats(400))
    async with running(world.scheduler()):
        undisturbed = await world.ended(undisturbed)
    chance = random.Random(11)
    batch = await world.batch(chats(400))
    for life in range(10):
        task = asyncio.create_task(world.scheduler(holder=f"life {life}").run())
        await asyncio.wait([task], timeout=chance.uniform(0.0, 0.12))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    async with running(world.scheduler(holder="last")):
        ended = await world.ended(batch)
    assert ended.status is BatchStatus.COMPLETED
    assert await _comparable(world, ended) == await _comparable(world, undisturbed)
    assert (ended.counts, ended.usage) == (undisturbed.counts, undisturbed.usage)


async def _comparable(world: World, batch: BatchRecord) -> list[Any]:
    output, errors = await world.results(batch)
    return [(line["custom_id"], line["response"]["body"]) for line in output] + errors


async def test_a_sole_scheduler_takes_a_dead_ones_leases_at_once(world: World, engine: TestEngine) -> None:
    batch = await world.batch(chats(20))
    async with running(world.scheduler()):
        await world.until(batch, lambda found: found.status is BatchStatus.IN_PROGRESS)
        engine.hold()
    for shard in await world.store.work.open_shards(limit_per_batch=9):
        await world.store.work.lease(
            batch.id,
            shard.shard_no,
            holder="dead",
            expected_generation=shard.generation,
            valid_bytes=scan(world.store.segment_path(batch.id, shard.shard_no, shard.generation)).valid_bytes,
            now=time.time(),
            lease_seconds=3600,
        )
    engine.let_go()
    async with running(world.scheduler(holder="next", sole_scheduler=True)):
        ended = await world.ended(batch)
    assert ended.counts.completed == 20


async def test_a_scheduler_stopped_past_its_lease_and_continued_changes_nothing(
    world: World, engine: TestEngine
) -> None:
    batch = await world.batch(chats(200))
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.scheduler.child", str(world.store.folder), stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    try:
        assert await child.stdout.readline() == b"appended\n"
        await _stop_between_transactions(child.pid, world.store.folder / "nightbatch.sqlite3")
        stopped = [s for s in await world.store.work.shards(batch.id) if s.holder == "child"]
        assert stopped
        engine.answer_seconds = 0.02
        async with running(world.scheduler(holder="parent")):
            await world.until(batch, lambda found: found.counts.completed > 0)
            await _until_taken_over(world, batch, {shard.shard_no for shard in stopped})
            os.kill(child.pid, signal.SIGCONT)
            assert await child.stdout.readline() == b"lost\n"
            ended = await world.ended(batch)
    finally:
        child.kill()
        await child.wait()
    output, errors = await world.results(ended)
    assert [line["custom_id"] for line in output] == [f"row-{no}" for no in range(200)]
    assert (errors, ended.counts.completed, ended.usage.output_tokens) == ([], 200, 400)


async def _stop_between_transactions(pid: int, database: Path) -> None:
    """Stop the process while it does not hold the database's lock: then nobody could go on, whatever they do."""
    async with asyncio.timeout(30):
        while True:
            os.kill(pid, signal.SIGSTOP)
            with closing(sqlite3.connect(database, timeout=0.05, isolation_level=None)) as connection:
                try:
                    connection.execute("BEGIN IMMEDIATE")
                    return
                except sqlite3.OperationalError:
                    os.kill(pid, signal.SIGCONT)
            await asyncio.sleep(0.01)


async def _until_taken_over(world: World, batch: BatchRecord, shard_nos: set[int]) -> None:
    async with asyncio.timeout(60):
        while True:
            shards = await world.store.work.shards(batch.id)
            if any(shard.shard_no in shard_nos and shard.holder == "parent" for shard in shards):
                return
            await asyncio.sleep(0.005)


async def test_two_schedulers_share_a_store_and_each_result_is_there_once(world: World, engine: TestEngine) -> None:
    engine.answer_seconds = 0.005
    batches = [await world.batch(chats(150)) for _ in range(3)]
    async with (
        await open_store(world.store.folder, lock=False) as other,
        running(world.scheduler(holder="a"), world.scheduler(holder="b", store=other)),
    ):
        ended = [await world.ended(batch) for batch in batches]
    for batch in ended:
        output, errors = await world.results(batch)
        assert [line["custom_id"] for line in output] == [f"row-{no}" for no in range(150)]
        assert errors == []
        assert batch.usage.output_tokens == 300


def test_the_child_has_the_parents_lease_time() -> None:
    assert SETTINGS.lease_seconds == 4.0
