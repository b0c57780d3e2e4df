"""Ctrl-C and SIGTERM, to the server or to its whole process group, in the middle of a batch."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.batches import Outcome, create, mixed_lines, outcome, simulated, upload, wait_for
from tests.support.process import ServerProcess

pytestmark = pytest.mark.crash

LINES = mixed_lines(300)
SLOW = simulated(time_scale=0.3) + "\n[server]\ndrain_seconds = 2\n"


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
    process = ServerProcess(tmp_path, config=SLOW)
    yield process
    process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("group", [False, True], ids=["server", "group"])
def test_a_stop_in_the_middle_ends_with_code_0_and_the_next_start_goes_on(
    number: signal.Signals, group: bool, server: ServerProcess, undisturbed: Outcome
) -> None:
    server.start()
    client = server.client()
    batch_id = create(client, upload(client, LINES)).id
    wait_for(client, batch_id, lambda batch: batch.request_counts is not None and batch.request_counts.completed > 0)
    server.signal(number, group=group)
    assert server.wait(30) == 0, server.tail()

    server.start()
    client = server.client()
    assert outcome(client, wait_for(client, batch_id)) == undisturbed


def test_a_second_signal_ends_at_once(server: ServerProcess, undisturbed: Outcome) -> None:
    server.start()
    client = server.client()
    batch_id = create(client, upload(client, LINES)).id
    wait_for(client, batch_id, lambda batch: batch.status == "in_progress")
    server.signal(signal.SIGINT)
    while "stopping" not in server.tail():
        assert server.alive
    server.signal(signal.SIGINT)
    assert server.wait(1.5) == 128 + signal.SIGINT

    server.start()
    client = server.client()
    assert outcome(client, wait_for(client, batch_id)) == undisturbed


def test_a_second_server_on_the_same_folder_is_refused_and_says_who_holds_it(server: ServerProcess) -> None:
    server.start()
    assert server.process is not None
    other = ServerProcess(server.folder / "other", config=SLOW)
    other.data = server.data
    other.start(ready=False)
    assert other.wait(20) == 2
    assert str(server.process.pid) in other.tail()
    assert str(server.data) in other.tail()


def test_a_taken_port_is_said_at_once(server: ServerProcess) -> None:
    server.start()
    other = ServerProcess(server.folder / "other", config=SLOW)
    other.port = server.port
    other.start(ready=False)
    assert other.wait(20) == 2
    assert f":{server.port}" in other.tail()
    assert "--port" in other.tail()
