from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import engine_clock
from benchmarks.engine_clock import EngineClock, Finish
from benchmarks.form import CouldNotMeasure

VLLM_IS_THERE = importlib.util.find_spec("vllm") is not None

finishes = st.lists(
    st.builds(
        lambda began, took, prompt, output: Finish(began, began + took, prompt, prompt // 2, output),
        st.floats(min_value=1e9, max_value=1e9 + 100),
        st.floats(min_value=0.01, max_value=50),
        st.integers(min_value=0, max_value=10_000),
        st.integers(min_value=0, max_value=1_000),
    ),
    min_size=1,
)


@settings(deadline=None)
@given(finishes)
def test_a_window_is_as_long_as_its_longest_request_or_longer(requests: list[Finish]) -> None:
    window = engine_clock.window_of(requests)
    assert window.seconds >= max(one.finished_at - one.began_at for one in requests)
    assert window.requests == len(requests)
    assert window.output_tokens == sum(one.output_tokens for one in requests)


@settings(deadline=None)
@given(finishes)
def test_the_order_in_which_requests_finish_does_not_matter(requests: list[Finish]) -> None:
    assert engine_clock.window_of(requests) == engine_clock.window_of(list(reversed(requests)))


def test_a_window_runs_from_the_first_request_to_the_last_result() -> None:
    window = engine_clock.window_of([Finish(10.0, 14.0, 5, 0, 7), Finish(11.0, 12.0, 5, 4, 3)])
    assert (window.seconds, window.requests_per_s, window.tokens_per_s) == (4.0, 0.5, 2.5)


@pytest.mark.parametrize("requests", [[], [Finish(1.0, 1.0, 0, 0, 0)]])
def test_nothing_finished_is_no_measurement(requests: list[Finish]) -> None:
    with pytest.raises(CouldNotMeasure):
        engine_clock.window_of(requests)


def write(folder: Path, name: str, count: int) -> None:
    line = json.dumps({"began_at": 1.0, "finished_at": 2.0, "prompt_tokens": 1, "cached_tokens": 0, "output_tokens": 1})
    (folder / "clock" / name).write_text(f"{line}\n" * count)


def test_a_file_that_was_not_answered_line_by_line_is_no_measurement(tmp_path: Path) -> None:
    clock = EngineClock(tmp_path)
    write(tmp_path, "1-0-1.jsonl", 2)
    write(tmp_path, "2-0-1.jsonl", 1)
    assert clock.window(requests=3).requests == 3
    with pytest.raises(CouldNotMeasure, match="finished 3 requests, the input has 4 lines"):
        clock.window(requests=4)


def run_python(code: str, clock: EngineClock) -> str:
    # -P as our host has it: the entry point must be found by PYTHONPATH alone.
    return subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**os.environ, **clock.environment()},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    ).stdout


def test_a_child_finds_the_plugin_and_the_installed_package_is_untouched(tmp_path: Path) -> None:
    code = (
        "from importlib.metadata import entry_points\n"
        "print(*[one.name for one in entry_points(group='vllm.stat_logger_plugins')])"
    )
    assert run_python(code, EngineClock(tmp_path)).split() == ["nightbatch_bench_clock"]
    here = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert here.split() == []


@pytest.mark.skipif(not VLLM_IS_THERE, reason="needs vLLM")
def test_vllm_loads_the_clock_and_what_it_writes_is_read_back(tmp_path: Path) -> None:
    clock = EngineClock(tmp_path)
    code = """
from vllm.v1.engine import FinishReason
from vllm.v1.metrics.loggers import load_stat_logger_plugin_factories
from vllm.v1.metrics.stats import FinishedRequestStats, IterationStats
(factory,) = load_stat_logger_plugin_factories()
logger = factory(None, 0)
logger.log_engine_initialized()
logger.record(None, None)
step = IterationStats()
logger.record(None, step)
step.iteration_timestamp = 1000.0
step.finished_requests += [
    FinishedRequestStats(
        FinishReason.STOP, e2e_latency=latency, num_prompt_tokens=9, num_cached_tokens=8, num_generation_tokens=4
    )
    for latency in (2.5, 4.0)
]
logger.record(None, step)
"""
    run_python(code, clock)
    window = clock.window(requests=2)
    assert (window.seconds, window.prompt_tokens, window.cached_tokens, window.output_tokens) == (4.0, 18, 16, 8)
