"""Engine processes on disk: whose they are, and how a later server ends them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from engine.processes import (
    EngineRecord,
    ProcessMark,
    alive,
    end_orphans,
    file_stem,
    mark_of,
    read_record,
    record_path,
    tree_of,
    write_record,
)

SLEEP = "import time; time.sleep(600)"
PARENT = (
    f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {SLEEP!r}]); print(1, flush=True); {SLEEP}"
)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", SLEEP])
    yield process
    process.kill()
    process.wait()


def mark(process: subprocess.Popen[bytes]) -> ProcessMark:
    found = mark_of(psutil.Process(process.pid), "host")
    assert found is not None
    return found


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    record = EngineRecord("org/model", 12, (ProcessMark(34, 5.5, "host"), ProcessMark(35, 6.5, "VLLM::Worker")))
    write_record(tmp_path, record)
    assert read_record(record_path(tmp_path, "org/model")) == record


def test_a_torn_record_is_no_record(tmp_path: Path) -> None:
    path = record_path(tmp_path, "chat")
    path.write_text('{"engine": "chat", "proc')
    assert read_record(path) is None
    assert end_orphans(tmp_path) == []
    assert not path.exists()


def test_names_with_slashes_become_different_files() -> None:
    assert file_stem("chat-1") == "chat-1"
    assert "/" not in file_stem("org/model")
    assert file_stem("org/model") != file_stem("org_model")


def test_a_process_is_itself_only_with_its_start_time(sleeper: subprocess.Popen[bytes]) -> None:
    found = mark(sleeper)
    assert [process.pid for process in alive([found])] == [sleeper.pid]
    assert alive([ProcessMark(found.pid, found.started_at - 60, "host")]) == []


def test_a_tree_holds_what_a_process_started() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        tree = tree_of(parent.pid, "host")
        for process in alive(tree):
            process.kill()
    assert tree[0].what == "host"
    assert len(tree) == 2


def test_recorded_processes_of_a_former_server_are_ended_and_named(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    write_record(tmp_path, EngineRecord("chat", 1, (mark(sleeper),)))
    (said,) = end_orphans(tmp_path)
    assert said == f"engine chat: ended 1 processes left by a former server (pid {sleeper.pid})"
    assert not psutil.pid_exists(sleeper.pid)
    assert end_orphans(tmp_path) == []


def test_a_stranger_with_a_recorded_pid_is_left_alone(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    found = mark(sleeper)
    write_record(tmp_path, EngineRecord("chat", 1, (ProcessMark(found.pid, found.started_at - 3600, "host"),)))
    assert end_orphans(tmp_path) == []
    assert sleeper.poll() is None


def test_a_process_without_a_record_is_known_by_its_mark(tmp_path: Path) -> None:
    marked = {**os.environ, "NIGHTBATCH_ENGINE": f"{tmp_path.resolve()}:chat"}
    elsewhere = {**os.environ, "NIGHTBATCH_ENGINE": f"{tmp_path.resolve()}-other:chat"}
    ours = subprocess.Popen([sys.executable, "-c", SLEEP], env=marked)
    other = subprocess.Popen([sys.executable, "-c", SLEEP], env=elsewhere)
    try:
        (said,) = end_orphans(tmp_path)
        assert str(ours.pid) in said
        assert not psutil.pid_exists(ours.pid)
        assert other.poll() is None
    finally:
        for process in (ours, other):
            process.kill()
            process.wait()


def test_a_folder_that_is_not_there_has_no_orphans(tmp_path: Path) -> None:
    assert end_orphans(tmp_path / "none") == []
