"""A server that dies or is told to stop, with 32 requests on the real engine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.processes import ProcessMark, alive, end_orphans, read_record, record_path

pytestmark = [pytest.mark.real_engine, pytest.mark.crash, pytest.mark.timeout(600)]

SERVER = Path(__file__).with_name("small_server.py")
IN_FLIGHT = 32
GONE_SECONDS_MAX = 10.0
Start = Callable[[int], subprocess.Popen[str]]


def shared_memory(found: tuple[ProcessMark, ...]) -> set[Path]:
    """What these processes have mapped there, and what OpenMP registers for each: other engines have theirs."""
    mapped = set()
    for mark in found:
        lines = Path(f"/proc/{mark.pid}/maps").read_text().splitlines()
        mapped |= {Path(line.split(maxsplit=5)[5]) for line in lines if "/dev/shm/" in line}
        mapped |= set(Path("/dev/shm").glob(f"__KMP_REGISTERED_LIB_{mark.pid}_*"))
    return mapped


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "engines"


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def start_server(tokens: int) -> subprocess.Popen[str]:
        command = [sys.executable, str(SERVER), str(folder), str(IN_FLIGHT), str(tokens)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "inflight\n"
        return process

    yield start_server
    for process in started:
        process.kill()
        process.communicate()
    end_orphans(folder)


def marks(folder: Path) -> tuple[ProcessMark, ...]:
    record = read_record(record_path(folder, "chat"))
    assert record is not None
    return record.processes


def wait_until_gone(found: tuple[ProcessMark, ...], memory: set[Path]) -> None:
    deadline = time.monotonic() + GONE_SECONDS_MAX
    while left := [*alive(found), *(path for path in memory if path.exists())]:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.05)


def test_a_killed_server_takes_its_engine_with_it_and_leaves_no_shared_memory(start: Start, folder: Path) -> None:
    server = start(3_000)
    engine = marks(folder)
    memory = shared_memory(engine)
    assert memory
    assert {"host", "VLLM::EngineCore", "VLLM::Worker"} <= {mark.what for mark in engine}
    server.kill()
    server.wait()
    wait_until_gone(engine, memory)
    assert end_orphans(folder) == []


def test_a_host_killed_with_its_server_takes_the_engine_with_it(start: Start, folder: Path) -> None:
    server = start(3_000)
    engine = marks(folder)
    memory = shared_memory(engine)
    host = next(mark for mark in engine if mark.what == "host")
    server.send_signal(signal.SIGSTOP)
    os.kill(host.pid, signal.SIGKILL)
    server.kill()
    server.wait()
    wait_until_gone(engine, set())
    end_orphans(folder)
    wait_until_gone(engine, memory)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_to_the_group_lets_every_request_finish(start: Start, folder: Path, number: signal.Signals) -> None:
    server = start(60)
    engine = marks(folder)
    memory = shared_memory(engine)
    os.killpg(server.pid, number)
    said, _ = server.communicate(timeout=180)
    assert said == f"complete {IN_FLIGHT}\n"
    wait_until_gone(engine, memory)
