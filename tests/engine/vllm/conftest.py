"""One start of both default models for every test of this session that needs real weights (25 s)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.engine.vllm.harness import VllmUnderTest, default_engines


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def started(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[VllmUnderTest]:
    under_test = VllmUnderTest(*default_engines(tmp_path_factory.mktemp("engines")))
    await under_test.start()
    yield under_test
    await under_test.close()


@pytest.fixture
def under_test(started: VllmUnderTest) -> VllmUnderTest:
    return started
