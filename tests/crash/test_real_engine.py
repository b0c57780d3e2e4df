"""The real vLLM with real weights, 32 requests in flight: kills, Ctrl-C and SIGTERM to the group lose nothing and leave
nothing behind."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import openai
import psutil
import pytest
from openai.types import Batch

from tests.support.batches import chat_line, create, outcome, upload, wait_for
from tests.support.process import ServerProcess

pytestmark = [pytest.mark.crash, pytest.mark.real_engine, pytest.mark.timeout(1200)]

MODEL = "smollm2-135m-instruct"
CONFIG = f"""
[[models]]
id = "{MODEL}"
kv_cache_mib = 512

[models.engine_args]
max_num_seqs = 32

[scheduler]
shard_lines_max = 32

[server]
drain_seconds = 1

[store]
disk_reserve_mib = 64
"""
LINES = [
    chat_line(f"row-{number}", f"Write a long story about the number {number}.", model=MODEL, max_tokens=120, seed=1)
    for number in range(192)
]
START_SECONDS_MAX = 180.0
GONE_SECONDS_MAX = 10.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    process = ServerProcess(tmp_path_factory.mktemp("real"), config=CONFIG)
    yield process
    process.kill()


def _descendants(server: ServerProcess) -> list[psutil.Process]:
    """Engine host, EngineCore, Worker, and whatever else the server has started."""
    assert server.process is not None
    return psutil.Process(server.process.pid).children(recursive=True)


def _alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    _, alive = psutil.wait_procs(processes, timeout=0)
    return [process for process in alive if not _zombie(process)]


def _zombie(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _shared_memory() -> set[Path]:
    """What Python's multiprocessing leaves there, without what a living process has mapped: another engine on this
    machine is none of ours."""
    mapped: set[str] = set()
    for process in psutil.process_iter():
        try:
            mapped.update(region.path for region in process.memory_maps() if region.path.startswith("/dev/shm/"))
        except psutil.Error:
            continue
    found = [*Path("/dev/shm").glob("psm_*"), *Path("/dev/shm").glob("sem.mp-*")]
    return {path for path in found if str(path) not in mapped}


def _openmp_marks(pids: set[int]) -> list[Path]:
    return [path for path in Path("/dev/shm").glob("__KMP_REGISTERED_LIB_*") if int(path.name.split("_")[5]) in pids]


def _with_32_in_flight(server: ServerProcess, client: openai.OpenAI, batch_id: str, beyond: int) -> Batch:
    server.wait_ready(START_SECONDS_MAX)
    deadline = time.monotonic() + 120
    while True:
        batch = client.batches.retrieve(batch_id)
        running = [line for line in server.metrics().splitlines() if line.startswith("vllm:num_requests_running{")]
        assert batch.request_counts is not None
        if running and float(running[0].rsplit(" ", 1)[1]) >= 32 and batch.request_counts.completed >= beyond:
            return batch
        assert time.monotonic() < deadline, f"never 32 in flight: {running} {batch}"
        time.sleep(0.1)


def _nothing_is_left(started: list[psutil.Process], shared_before: set[Path]) -> None:
    deadline = time.monotonic() + GONE_SECONDS_MAX
    pids = {process.pid for process in started}
    while left := [*_alive(started), *(_shared_memory() - shared_before), *_openmp_marks(pids)]:
        assert time.monotonic() < deadline, f"left after {GONE_SECONDS_MAX:.0f} s: {left}"
        time.sleep(0.1)


def test_kills_and_stops_with_32_in_flight_lose_nothing_and_leave_nothing(server: ServerProcess) -> None:
    shared_before = _shared_memory()
    server.start(ready=False)
    server.wait_ready(START_SECONDS_MAX)
    client = server.client()
    batch_id = create(client, upload(client, LINES)).id
    endings = (
        (signal.SIGKILL, False, -signal.SIGKILL),
        (signal.SIGINT, True, 0),
        (signal.SIGTERM, True, 0),
        (signal.SIGKILL, False, -signal.SIGKILL),
    )
    for round_no, (number, group, code) in enumerate(endings):
        _with_32_in_flight(server, client, batch_id, beyond=8 * (round_no + 1))
        started = _descendants(server)
        assert len(started) >= 3, "host, EngineCore and Worker"
        server.signal(number, group=group)
        assert server.wait(60) == code, server.tail()
        _nothing_is_left(started, shared_before)
        server.start(ready=False)
        server.wait_ready(START_SECONDS_MAX)
        client = server.client()

    result = outcome(client, wait_for(client, batch_id, seconds=180))
    assert result.status == "completed"
    assert result.errors == []
    assert [line["custom_id"] for line in result.output] == [f"row-{number}" for number in range(len(LINES))]
    reasons = Counter(line["response"]["body"]["choices"][0]["finish_reason"] for line in result.output)
    assert set(reasons) <= {"stop", "length"}, reasons
    for line in result.output:
        choice, usage = line["response"]["body"]["choices"][0], line["response"]["body"]["usage"]
        assert choice["finish_reason"] == "stop" or usage["completion_tokens"] == 120
        assert choice["message"]["content"]
    started = _descendants(server)
    server.stop()
    _nothing_is_left(started, shared_before)
