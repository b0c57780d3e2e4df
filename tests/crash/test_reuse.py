"""SIGKILL while lines share answers: afterwards every line has its one result, and the marks and counts agree."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.batches import Outcome, chat_line, create, outcome, simulated, upload, wait_for
from tests.support.process import ServerProcess

pytestmark = pytest.mark.crash

REUSE = '\n[reuse]\ndefault = "server"\n'


def lines(count: int, questions: int) -> list[bytes]:
    return [chat_line(f"line {no}", f"question {no % questions} of some", temperature=0) for no in range(count)]


def unmarked(found: Outcome) -> tuple[list[dict[str, Any]], int]:
    """The results without the mark of reuse, and how many had it."""
    marks = [line.pop("reused", False) for line in found.output]
    return found.output, sum(marks)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The same lines, each of them run."""
    server = ServerProcess(tmp_path_factory.mktemp("undisturbed"), config=simulated()).start()
    try:
        client = server.client()
        return outcome(client, wait_for(client, create(client, upload(client, lines(300, 60))).id))
    finally:
        server.stop()


@pytest.mark.parametrize("marker", ["append.synced:2", "shard.sealed:1"])
def test_a_kill_while_answers_are_shared_loses_and_doubles_nothing(
    tmp_path: Path, marker: str, undisturbed: Outcome
) -> None:
    server = ServerProcess(tmp_path, config=simulated() + REUSE)
    try:
        server.start(kill_at=marker)
        client = server.client(max_retries=0)
        batch_id = create(client, upload(client, lines(300, 60))).id
        assert server.wait() == -9, f"{marker} was never reached:\n{server.tail()}"
        server.start()
        client = server.client()
        batch = wait_for(client, batch_id)
        found = outcome(client, batch)
        output, reused = unmarked(found)
        assert (output, found.errors, found.counts) == (undisturbed.output, [], undisturbed.counts)
        assert batch.model_extra is not None
        assert batch.model_extra["reused_requests"] == reused > 0
        again = wait_for(client, create(client, upload(client, lines(300, 60))).id)
        assert unmarked(outcome(client, again))[0] == undisturbed.output
    finally:
        server.stop()


def test_kills_at_random_while_answers_are_shared_lose_and_double_nothing(tmp_path: Path) -> None:
    chance = random.Random(8)
    server = ServerProcess(tmp_path, config=simulated(time_scale=0.3, shard_lines_max=100) + REUSE).start()
    try:
        batch_id = create(server.client(), upload(server.client(), lines(800, 200))).id
        for _ in range(3):
            time.sleep(chance.uniform(0.2, 1.2))  # the moment of the kill is what is random here
            server.kill()
            server.start()
        client = server.client()
        batch = wait_for(client, batch_id)
        output, reused = unmarked(outcome(client, batch))
    finally:
        server.stop()
    assert [line["custom_id"] for line in output] == [f"line {no}" for no in range(800)]
    answers = [line["response"]["body"]["choices"] for line in output]
    assert answers == [answers[no % 200] for no in range(800)]
    assert batch.model_extra is not None
    assert batch.model_extra["reused_requests"] == reused > 0
