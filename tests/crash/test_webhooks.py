"""Events outlive the process that was to send them. Receiver and configuration are those of docs/webhooks.md."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.batches import chat_line, create, simulated, upload, wait_for
from tests.support.process import ServerProcess, free_port

pytestmark = pytest.mark.crash

DOCUMENT = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text(encoding="utf-8")
SECRET = "whsec_bmlnaHRiYXRjaC1uaWdodGJhdGNo"
LINES = [chat_line(f"line {number}", "hello") for number in range(5)]
SECONDS_MAX = 30.0


def block(language: str, holding: str) -> str:
    found = [
        code
        for kind, code in re.findall(r"^```(\w+)\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
        if kind == language and holding in code
    ]
    assert len(found) == 1, f"{len(found)} blocks of {language} hold {holding!r}"
    return str(found[0])


class Receiver:
    """The receiver of the document, as a process. `heard` has a line for each event: webhook-id, type, batch."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self._heard = folder / "heard"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, server: ServerProcess) -> None:
        code = block("python", "unwrap").replace("9000", str(self.port)).replace("http://127.0.0.1:8000", server.url)
        program = self._folder / "receiver.py"
        program.write_text(code, encoding="utf-8")
        with self._heard.open("wb") as heard:
            self._process = subprocess.Popen(
                [sys.executable, str(program)], stdout=heard, env={**os.environ, "HOOK_SECRET": SECRET}
            )

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @property
    def heard(self) -> list[list[str]]:
        return [line.split() for line in self._heard.read_text().splitlines()]


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    one = Receiver(tmp_path)
    yield one
    one.stop()


@pytest.fixture
def server(tmp_path: Path, receiver: Receiver) -> Iterator[ServerProcess]:
    webhook = block("toml", "allow_private").replace("9000", str(receiver.port))
    process = ServerProcess(tmp_path, config=simulated() + webhook, environment={"HOOK_SECRET": SECRET})
    yield process
    process.kill()


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not holds():
        assert time.monotonic() < deadline, f"not within {SECONDS_MAX:.0f} s: {what}"
        time.sleep(0.05)  # polling foreign processes: there is no event to wait for


@pytest.mark.parametrize(("marker", "times"), [("finalize.committed", 1), ("event.sent", 2)])
def test_an_event_is_delivered_though_its_server_was_killed(
    marker: str, times: int, server: ServerProcess, receiver: Receiver
) -> None:
    """Before it is sent it is not lost; after it was taken, but before that is written, it comes again as the same."""
    receiver.start(server)
    server.start(kill_at=f"{marker}:1")
    client = server.client(max_retries=0)
    batch = create(client, upload(client, LINES))
    assert server.wait() == -9, server.tail()

    server.start()
    until(lambda: len(receiver.heard) == times, f"{times} deliveries")
    until(lambda: delivered(server) == 1, "the delivery in the metrics")
    assert server.stop() == 0

    server.start()
    client = server.client()
    later = create(client, upload(client, LINES))
    wait_for(client, later.id)
    until(lambda: delivered(server) == 1, "the delivery of the second batch")
    first = receiver.heard[0][0]
    assert receiver.heard[:times] == [[first, "batch.completed", batch.id]] * times
    assert [line[1:] for line in receiver.heard[times:]] == [["batch.completed", later.id]]


def delivered(server: ServerProcess) -> float:
    found = re.search(
        r'^nightbatch_deliveries_total\{outcome="delivered",target="here"\} (\S+)', server.metrics(), re.MULTILINE
    )
    return float(found.group(1)) if found else 0.0


def test_the_log_says_that_a_private_target_is_refused(tmp_path: Path) -> None:
    webhook = '[[webhooks]]\nname = "inside"\nurl = "https://127.0.0.1:9/"\nsecrets = ["text"]\n'
    hanging = f'[events]\non_event = ["{sys.executable}", "-c", "import time; time.sleep(600)"]\n'
    server = ServerProcess(tmp_path, config=simulated() + webhook + hanging).start()
    try:
        client = server.client()
        wait_for(client, create(client, upload(client, LINES)).id)
        until(lambda: "127.0.0.1 is a loopback address: set allow_private" in server.tail(), "the refusal in the log")
        until(lambda: 'nightbatch_deliveries_pending{target="inside"}' in server.metrics(), "the event that waits")
    finally:
        started = time.monotonic()
        assert server.stop() == 0
    assert time.monotonic() - started < SECONDS_MAX, "a hanging command held the server up"
