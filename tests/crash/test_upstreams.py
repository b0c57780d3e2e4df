"""Two upstreams, our own server as both: one dies in the middle of a batch, and nothing is lost or blamed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.batches import create, mixed_lines, outcome, simulated, upload, wait_for
from tests.support.process import ServerProcess

pytestmark = pytest.mark.crash

LINES = mixed_lines(400)
FRONT = """
[[models]]
engine = "remote"
upstreams = [{upstreams}]

[scheduler]
inflight_requests_multiple = 0.0625
shard_lines_max = 64
lease_seconds = 20

[store]
disk_reserve_mib = 64
"""


@pytest.fixture
def upstreams(tmp_path: Path) -> Iterator[list[ServerProcess]]:
    servers = [ServerProcess(tmp_path / f"gpu{number}", config=simulated(time_scale=0.2)).start() for number in (1, 2)]
    yield servers
    for server in servers:
        server.kill()


@pytest.fixture
def front(tmp_path: Path, upstreams: list[ServerProcess]) -> Iterator[ServerProcess]:
    urls = ", ".join(f'"{server.url}/v1"' for server in upstreams)
    process = ServerProcess(tmp_path / "front", config=FRONT.format(upstreams=urls)).start()
    yield process
    process.kill()


def test_an_upstream_that_dies_mid_batch_costs_no_line(front: ServerProcess, upstreams: list[ServerProcess]) -> None:
    client = front.client()
    batch_id = create(client, upload(client, LINES)).id
    wait_for(client, batch_id, lambda batch: batch.request_counts is not None and batch.request_counts.completed > 20)
    upstreams[0].kill()
    batch = wait_for(client, batch_id)

    straight = upstreams[1].client()
    expected = outcome(straight, wait_for(straight, create(straight, upload(straight, LINES)).id))
    assert outcome(client, batch) == expected


def test_with_no_upstream_left_the_batch_waits_says_so_and_goes_on(
    front: ServerProcess, upstreams: list[ServerProcess]
) -> None:
    client = front.client()
    batch_id = create(client, upload(client, LINES)).id
    wait_for(client, batch_id, lambda batch: batch.request_counts is not None and batch.request_counts.completed > 20)
    for upstream in upstreams:
        upstream.kill()
    paused = wait_for(client, batch_id, lambda batch: getattr(batch, "pause_reason", None) is not None)
    assert paused.status == "in_progress"
    assert "sim" in paused.pause_reason  # type: ignore[attr-defined]

    upstreams[1].start()
    batch = wait_for(client, batch_id)
    assert batch.status == "completed"
    assert batch.pause_reason is None  # type: ignore[attr-defined]
    assert batch.request_counts is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (392, 8)


def test_finished_lines_are_not_generated_again_beyond_one_append_group(
    front: ServerProcess, upstreams: list[ServerProcess]
) -> None:
    client = front.client()
    batch_id = create(client, upload(client, LINES)).id
    for number in range(KILLS):
        least = (number + 1) * 80
        wait_for(client, batch_id, lambda batch: batch.request_counts.completed > least)  # type: ignore[union-attr]  # noqa: B023 (called at once)
        front.kill()
        front.start()
        client = front.client()
    assert wait_for(client, batch_id).status == "completed"

    # What an upstream answered and what the front had recorded differ by what was in flight or in one append group.
    answered = sum(sum(_value(upstream, ANSWERED)) for upstream in upstreams)
    assert len(LINES) < answered <= len(LINES) + KILLS * (IN_FLIGHT_MAX + APPEND_GROUP_LINES_MAX)


KILLS = 3
IN_FLIGHT_MAX = 2 * 16
"""Two upstreams, each with 0.0625 of the 256 that an upstream takes at most."""
APPEND_GROUP_LINES_MAX = 32
"""Results of 50 ms: far fewer here than could be in flight."""
ANSWERED = r'nightbatch_http_requests_total\{.*route="/v1/chat/completions".*\} (\S+)'


def _value(server: ServerProcess, pattern: str) -> list[float]:
    return [float(value) for value in re.findall(pattern, server.metrics())]
