from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import openai
import pytest

from tests.support.batches import chat_and_embeddings, simulated
from tests.support.clients import Unavailable, node_folder, python_of
from tests.support.process import ServerProcess

T = TypeVar("T")


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


@pytest.fixture(scope="module")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One real server process with the simulated models `sim` (chat) and `sim-embed`."""
    process = ServerProcess(tmp_path_factory.mktemp("two-models"), config=chat_and_embeddings()).start()
    yield process
    process.stop()


def _or_skip(make: Callable[[], T]) -> T:
    try:
        return make()
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def helpers_python() -> Path:
    """Python with `batch-openai` and `openai-batch`, and the older `openai` that both were written for."""
    return _or_skip(lambda: python_of("helpers"))


@pytest.fixture(scope="session")
def litellm_python() -> Path:
    return _or_skip(lambda: python_of("litellm"))


@pytest.fixture(scope="session")
def node() -> Path:
    """A folder in which Node finds the official `openai` package."""
    return _or_skip(node_folder)
