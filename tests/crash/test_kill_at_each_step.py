"""SIGKILL at every named step of a request's walk, and at random: after a restart the result is as if nothing was."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from store.markers import MARKERS
from tests.support.batches import Outcome, create, mixed_lines, outcome, simulated, upload, wait_for
from tests.support.process import ServerProcess

pytestmark = pytest.mark.crash

LINES = mixed_lines(400)
PASSING = {"shard.leased": 3, "request.started": 150, "request.answered": 200, "append.written": 3, "append.synced": 3}
"""At which passing of a marker to kill; the first for all others."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    server = ServerProcess(tmp_path_factory.mktemp("undisturbed"), config=simulated()).start()
    try:
        client = server.client()
        return outcome(client, wait_for(client, create(client, upload(client, LINES)).id))
    finally:
        server.stop()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    process = ServerProcess(tmp_path, config=simulated() + '\n[events]\non_event = ["true"]\n')
    yield process
    process.kill()


def test_the_undisturbed_run_is_what_the_input_asks_for(undisturbed: Outcome) -> None:
    assert undisturbed.status == "completed"
    assert undisturbed.counts == (400, 392, 8)
    assert [line["custom_id"] for line in undisturbed.output] == [
        f"line {number}\t✓" for number in range(400) if number % 50 != 49
    ]
    assert {line["response"]["body"]["error"]["code"] for line in undisturbed.errors} == {"context_length_exceeded"}


@pytest.mark.parametrize("marker", MARKERS)
def test_a_kill_at_any_step_loses_and_doubles_nothing(marker: str, server: ServerProcess, undisturbed: Outcome) -> None:
    server.start(kill_at=f"{marker}:{PASSING.get(marker, 1)}")
    client = server.client(max_retries=0)
    file_id, batch_id = _as_far_as_it_goes(client)
    assert server.wait() == -9, f"{marker} was never reached:\n{server.tail()}"

    server.start()
    client = server.client()
    if file_id is None:
        file_id = upload(client, LINES)
    if batch_id is None:
        listed = client.batches.list().data
        batch_id = listed[0].id if listed else create(client, file_id).id
    assert outcome(client, wait_for(client, batch_id)) == undisturbed
    assert len(client.batches.list().data) == 1
    assert not list((server.data / "tmp").iterdir())
    _wait_until_swept(server, batch_id)


def _wait_until_swept(server: ServerProcess, batch_id: str, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while (folder := server.data / "work" / batch_id).exists():
        assert time.monotonic() < deadline, f"left of an ended batch: {sorted(folder.iterdir())}"
        time.sleep(0.05)


def _as_far_as_it_goes(client: openai.OpenAI) -> tuple[str | None, str | None]:
    file_id = batch_id = None
    try:
        file_id = upload(client, LINES)
        batch_id = create(client, file_id).id
    except openai.APIConnectionError:
        pass
    return file_id, batch_id


def test_ten_kills_at_random_lose_and_double_nothing(tmp_path: Path) -> None:
    chance = random.Random(20)
    lines = mixed_lines(1_500)
    calm = ServerProcess(tmp_path / "calm", config=simulated()).start()
    client = calm.client()
    expected = outcome(client, wait_for(client, create(client, upload(client, lines)).id))
    calm.stop()

    # Slow enough that ten kills land while it runs: 1,500 lines of 24 tokens at some 300 tokens a second.
    server = ServerProcess(tmp_path / "killed", config=simulated(time_scale=0.3, shard_lines_max=100)).start()
    batch_id = create(server.client(), upload(server.client(), lines)).id
    landed = 0
    for _ in range(10):
        time.sleep(chance.uniform(0.2, 1.2))  # the moment of the kill is what is random here
        landed += server.client().batches.retrieve(batch_id).status in {"validating", "in_progress", "finalizing"}
        server.kill()
        server.start()
    try:
        client = server.client()
        assert outcome(client, wait_for(client, batch_id)) == expected
        assert landed == 10, "the run was too short for ten kills"
    finally:
        server.stop()
