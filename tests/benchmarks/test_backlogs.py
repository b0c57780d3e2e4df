"""Backlogs against a real server with simulated engines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from benchmarks import backlog, client
from benchmarks.backlog import Backlog
from benchmarks.embeddings_backlog import EmbeddingsBacklog
from benchmarks.server_process import ServerProcess

SLOW_ENGINES = """\
[[models]]
id = "chat"
engine = "simulated"
profile = "cpu-135m"
time_scale = 100.0

[[models]]
id = "texts"
engine = "simulated"
profile = "cpu-135m"
kind = "pooling"
time_scale = 100.0
"""


@pytest.fixture(scope="module")
def api() -> Iterator[openai.OpenAI]:
    with ServerProcess([], config=SLOW_ENGINES) as server:
        yield client.connect(server.url)


def open_batches(api: openai.OpenAI) -> list[openai.types.Batch]:
    return [batch for batch in api.batches.list(limit=100).data if batch.status not in client.TERMINAL]


def test_a_backlog_keeps_enough_batches_open_and_pauses_and_resumes_them(api: openai.OpenAI, tmp_path: Path) -> None:
    feed = Backlog(api, "chat", tmp_path)
    feed.top_up()
    feed.top_up()
    assert len(open_batches(api)) == backlog.OPEN_BATCHES_MIN
    feed.pause()
    assert all(batch.model_dump().get("paused_at") for batch in open_batches(api))
    feed.resume()
    assert not any(batch.model_dump().get("paused_at") for batch in open_batches(api))

    ended = open_batches(api)[0]
    api.batches.cancel(ended.id)
    client.wait_until_not(
        api, client.wait_until_not(api, ended, "in_progress", seconds_max=30), "cancelling", seconds_max=30
    )
    feed.pause()
    feed.top_up()
    assert len(open_batches(api)) == backlog.OPEN_BATCHES_MIN
    for batch in open_batches(api):
        api.batches.cancel(batch.id)


def test_embedding_work_ends_with_its_window(api: openai.OpenAI, tmp_path: Path) -> None:
    work = EmbeddingsBacklog(api, "texts", tmp_path)
    with work.lasting(2.0):
        mine = [batch for batch in open_batches(api) if batch.endpoint == "/v1/embeddings"]
        assert len(mine) == 2
    assert not [batch for batch in open_batches(api) if batch.endpoint == "/v1/embeddings"]
