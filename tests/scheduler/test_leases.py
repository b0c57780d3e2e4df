"""What one scheduler holds of the store's shards, and gives back."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.protocol import EngineState
from scheduler.actors.inputs import Inputs
from scheduler.actors.leases import Leases
from store import StoreSettings, open_store
from store.folder import DATABASE_NAME
from store.records import ShardState
from tests.scheduler.world import SETTINGS, TestEngine, World, chats, poll, registry_of, running


@pytest.fixture
async def world(tmp_path: Path, engine: TestEngine) -> AsyncIterator[World]:
    settings = StoreSettings(disk_reserve_bytes=1024, index_workers_max=1, busy_timeout_seconds=0.02)
    async with await open_store(tmp_path / "data", settings=settings) as store:
        yield World(store, registry_of(engine), SETTINGS)


async def test_a_shard_that_the_store_does_not_take_back_now_is_given_back_later(
    world: World, engine: TestEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """Its lease would be renewed with the others of its holder, and the shard rest until a restart."""
    engine.change(EngineState.STOPPED)
    batch = await world.batch(chats(10))
    async with running(world.scheduler()):
        batch = await world.until(batch, lambda found: found.pause_reason is not None)
    leases = Leases(world.store, SETTINGS, holder="one", now=time.time, monotonic=time.monotonic)
    [record] = await world.store.work.shards(batch.id)
    source = await Inputs(world.store).open(batch)
    shard = await leases.acquire(record, batch, source, context_tokens_max=None)
    assert shard is not None
    leases.forget(shard)
    with sqlite3.connect(world.store.folder / DATABASE_NAME, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        giving = asyncio.create_task(leases.give_back(shard))

        async def is_refused() -> bool:
            return giving.done() or "waits to be given back" in caplog.text

        await poll(is_refused)
        other.execute("ROLLBACK")
    other.close()
    await giving
    [record] = await world.store.work.shards(batch.id)
    assert record.state is ShardState.READY
