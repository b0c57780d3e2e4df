"""Fixtures: houses to send requests to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.server.houses import House, HouseBuilder, build_house


@pytest.fixture
async def open_house(tmp_path: Path) -> AsyncIterator[HouseBuilder]:
    """Builds a house; it is closed when the test ends."""
    async with AsyncExitStack() as stack:

        async def build(**options: object) -> House:
            return await build_house(tmp_path / "data", stack, **options)  # type: ignore[arg-type]

        yield build


@pytest.fixture
async def house(open_house: HouseBuilder) -> House:
    return await open_house()
