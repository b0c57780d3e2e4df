from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from tests.support.batches import simulated
from tests.support.process import ServerProcess


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One real server process on the simulated engine for the tests of a module."""
    process = ServerProcess(tmp_path_factory.mktemp("server"), config=simulated()).start()
    yield process
    process.stop()


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with server.client(max_retries=0) as client:
        yield client
