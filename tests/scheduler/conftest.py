"""One world per test: a store on disk, one engine, no scheduler running yet."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from store import StoreSettings, open_store
from tests.scheduler.world import SETTINGS, TestEngine, World, registry_of


@pytest.fixture
def engine() -> TestEngine:
    return TestEngine()


@pytest.fixture
async def world(tmp_path: Path, engine: TestEngine) -> AsyncIterator[World]:
    settings = StoreSettings(disk_reserve_bytes=1024, index_workers_max=1)
    async with await open_store(tmp_path / "data", settings=settings) as store:
        yield World(store, registry_of(engine), SETTINGS)
