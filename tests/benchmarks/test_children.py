"""The processes that benchmarks start: real ones."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.form import CouldNotMeasure
from benchmarks.process_tree import TreeSampler
from benchmarks.server_process import ChildProcess, free_port, without_settings

WORKER = """
import sys
block = bytearray(64 << 20)
n = 0
while n < 3_000_000:
    n += 1
print("done", flush=True)
sys.stdin.read()
"""
PARENT = """
import subprocess, sys
sys.stdin.readline()
subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=subprocess.PIPE)
sys.stdin.read()
"""
LEAVES_A_CHILD = """
import subprocess, time
subprocess.Popen(["sleep", "600"])
print("up", flush=True)
time.sleep(600)
"""


def child(folder: Path, code: str, **options: object) -> ChildProcess:
    return ChildProcess([sys.executable, "-c", code], folder=folder, name="child", **options)  # type: ignore[arg-type]


def test_a_child_that_ends_early_is_told_with_its_last_words(tmp_path: Path) -> None:
    process = child(tmp_path, "raise SystemExit('no such model: it was a typo')")
    process.start()
    with pytest.raises(CouldNotMeasure, match="it was a typo"):
        process.wait_for(f"http://127.0.0.1:{free_port()}/", 30)
    process.stop()


def test_a_child_that_never_answers_is_given_up(tmp_path: Path) -> None:
    process = child(tmp_path, "import time; time.sleep(600)")
    process.start()
    with pytest.raises(CouldNotMeasure, match="was not ready after 0 s"):
        process.wait_for(f"http://127.0.0.1:{free_port()}/", 0.2)
    process.stop()


def test_stopping_leaves_nothing_of_the_session(tmp_path: Path) -> None:
    process = child(tmp_path, LEAVES_A_CHILD)
    process.start()
    while "up" not in process.log_path.read_text():
        time.sleep(0.01)
    (grandchild,) = psutil.Process(process.pid).children()
    process.stop()
    assert grandchild.wait(10) is None or not grandchild.is_running()


def test_a_failing_child_is_no_measurement(tmp_path: Path) -> None:
    process = child(tmp_path, "print('disk full'); raise SystemExit(3)")
    process.start()
    with pytest.raises(CouldNotMeasure, match="exit code 3:\ndisk full"):
        process.wait(30)
    process.stop()


def test_a_child_is_bound_to_its_cores_and_we_are_not(tmp_path: Path) -> None:
    mine = os.sched_getaffinity(0)
    one = {min(mine)}
    process = child(tmp_path, "import os; print(sorted(os.sched_getaffinity(0)))", cores=one)
    process.start()
    process.wait(30)
    assert process.log_path.read_text().strip() == str(sorted(one))
    assert os.sched_getaffinity(0) == mine
    process.stop()


def test_settings_of_a_server_do_not_leak_into_the_measured_one() -> None:
    assert without_settings({"PATH": "/bin", "NIGHTBATCH_SERVER__PORT": "1", "HF_HOME": "/h"}) == {
        "PATH": "/bin",
        "HF_HOME": "/h",
    }


def test_memory_and_cpu_of_workers_count() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        with TreeSampler(process.pid, sample_seconds=0.01) as tree:
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "done\n"
        # Its end closes the worker's standard input, which ends the worker.
        process.stdin.close()
    assert tree.processes_peak == 2
    assert tree.rss_growth_bytes > 60 << 20
    assert 0.05 < tree.cpu_seconds < 30
    assert tree.samples >= 2


def test_a_sampler_survives_the_end_of_its_process() -> None:
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as process:
        tree = TreeSampler(process.pid, sample_seconds=0.01)
        tree.start()
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)
        tree.stop()
    assert tree.rss_peak_bytes > 0
    assert not [thread for thread in threading.enumerate() if thread.name == "tree-sampler"]
