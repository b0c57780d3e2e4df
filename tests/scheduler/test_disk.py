"""A full disk pauses what runs and loses nothing; space lets it go on."""

from __future__ import annotations

import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from store import BatchStatus, StoreSettings, open_store
from tests.scheduler.world import SETTINGS, TestEngine, World, chats, registry_of, running

GIB = 1024**3


class Free:
    bytes = 100 * GIB


@pytest.fixture
def free() -> Free:
    return Free()


@pytest.fixture
async def world(tmp_path: Path, engine: TestEngine, free: Free) -> AsyncIterator[World]:
    settings = StoreSettings(index_workers_max=1)
    async with await open_store(tmp_path / "data", settings=settings, free_bytes_of=lambda _: free.bytes) as store:
        yield World(store, registry_of(engine), SETTINGS)


async def test_below_the_reserve_batches_pause_and_above_it_they_go_on(
    world: World, engine: TestEngine, free: Free
) -> None:
    batch = await world.batch(chats(40))
    free.bytes = 100
    async with running(world.scheduler()):
        paused = await world.until(batch, lambda found: found.paused_at is not None)
        assert "disk" in (paused.pause_reason or "")
        assert engine.asked == []
        free.bytes = 100 * GIB
        ended = await world.ended(batch)
    assert (ended.status, ended.counts.completed, ended.pause_reason) == (BatchStatus.COMPLETED, 40, None)


async def test_results_that_cannot_be_composed_wait_for_space(world: World, engine: TestEngine, free: Free) -> None:
    engine.hold()
    batch = await world.batch(chats(10))
    async with running(world.scheduler()):
        await world.until(batch, lambda _: engine.inflight == 10)
        free.bytes = 100
        engine.let_go()
        paused = await world.until(batch, lambda found: "The results need" in (found.pause_reason or ""))
        assert paused.status is BatchStatus.IN_PROGRESS
        free.bytes = 100 * GIB
        ended = await world.ended(batch)
    assert (ended.status, ended.counts.completed) == (BatchStatus.COMPLETED, 10)


@contextmanager
def files_at_most(size: int) -> Iterator[None]:
    """The kernel refuses to write beyond `size`: what an append meets on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_results_that_cannot_be_appended_wait_in_memory_and_are_not_generated_again(
    world: World, engine: TestEngine
) -> None:
    def long_answer(request):  # type: ignore[no-untyped-def]
        from tests.scheduler.world import EngineResult

        return EngineResult(200, b'{"text":"%b"}' % (b"x" * 400_000))

    engine.respond = long_answer
    batch = await world.batch(chats(16))
    database_bytes = sum(path.stat().st_size for path in world.store.folder.glob("nightbatch.sqlite3*"))
    assert database_bytes < 4 * 1024**2
    async with running(world.scheduler()):
        with files_at_most(5 * 1024**2):
            await world.until(batch, lambda found: found.paused_at is not None)
            asked = len(engine.asked)
        ended = await world.ended(batch)
    assert (ended.status, ended.counts.completed) == (BatchStatus.COMPLETED, 16)
    assert len(engine.asked) == asked == 16
