"""A real database on disk for every test."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from store import migrations
from tests.support.metadata import Metadata


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database at the newest revision, to be copied."""
    path = tmp_path_factory.mktemp("migrated") / "empty.sqlite3"
    migrations.upgrade(path)
    return path


@pytest.fixture
async def metadata(migrated: Path, tmp_path: Path) -> AsyncIterator[Metadata]:
    path = tmp_path / "nightbatch.sqlite3"
    shutil.copy(migrated, path)
    opened = Metadata(path)
    yield opened
    await opened.close()
