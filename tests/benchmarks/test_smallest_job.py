from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import examples, smallest_job, throughput, vllm_baselines
from benchmarks.form import CouldNotMeasure
from benchmarks.intake import INSTANT_ENGINE
from benchmarks.server_process import ServerProcess
from benchmarks.smallest_job import by_size, crossing, jobs_of, report

RATIOS = st.lists(st.floats(min_value=0.01, max_value=100), min_size=1, max_size=10).map(
    lambda ratios: [(2**place, ratio) for place, ratio in enumerate(ratios)]
)


@pytest.mark.parametrize(
    ("ratios", "lines"),
    [
        ([(1, 0.5), (2, 2.0)], math.sqrt(2)),
        ([(1, 0.5), (2, 1.0), (4, 2.0)], 2.0),
        ([(1, 1.2), (2, 1.3)], 1.0),
        ([(1, 1.2), (2, 0.8), (4, 1.25)], math.sqrt(8)),
        ([(1, 0.5), (2, 0.9)], None),
        ([(1, 0.2)], None),
    ],
)
def test_the_smallest_job_is_read_off_between_two_sizes(ratios: list[tuple[int, float]], lines: float | None) -> None:
    found = crossing(ratios)
    assert found == (None if lines is None else pytest.approx(lines))


@settings(deadline=None)
@given(RATIOS)
def test_no_measured_size_from_the_smallest_job_on_is_slower_as_a_batch(ratios: list[tuple[int, float]]) -> None:
    found = crossing(ratios)
    if found is None:
        assert ratios[-1][1] < 1
    else:
        assert all(ratio >= 1 for size, ratio in ratios if size >= found * (1 + 1e-9))
        assert ratios[0][0] <= found <= ratios[-1][0] * (1 + 1e-9)


def test_small_jobs_are_sent_several_times_and_the_warm_up_counts_nowhere() -> None:
    jobs = jobs_of([1, 8, 512])
    assert jobs == [smallest_job.WARM_UP_LINES, 1, 1, 1, 1, 1, 8, 8, 512]
    seconds = [99.0, 1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 9.0, 50.0]
    assert by_size(jobs, seconds) == {1: 3.0, 8: 8.0, 512: 50.0}


FACTS: dict[str, dict[str, str | int | float | bool | None]] = {"ours": {}, "parallel_client": {}}


def test_the_report_says_from_where_on_batches_win() -> None:
    made = report([{1: 0.4, 64: 3.0}] * 3, [{1: 0.2, 64: 6.0}] * 3, FACTS)
    assert made.figures["smallest_job_lines"].value == pytest.approx(8.0)
    assert made.figures["smallest_job_lines"].n == 3
    assert made.figures["fixed_cost_s"].value == pytest.approx(0.2)
    assert made.figures["wait_ratio_64_lines"].value == pytest.approx(2.0)
    assert made.notes[0].startswith("From about 8 lines on")
    assert [arm.name for arm in made.arms] == ["ours", "parallel_client", "ratio"]


def test_where_a_round_has_no_such_size_none_is_claimed() -> None:
    made = report([{1: 0.4, 64: 3.0}, {1: 0.4, 64: 7.0}], [{1: 0.2, 64: 6.0}] * 2, FACTS)
    assert "smallest_job_lines" not in made.figures
    assert made.notes[0] == "In 1 of 2 rounds the parallel client was sooner still with 64 lines."


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess([], config=INSTANT_ENGINE) as server:
        yield server


def banking77() -> list[bytes]:
    return examples.read_lines(examples.find(throughput.INPUT_PATTERN))


def test_jobs_go_as_batches_and_by_the_parallel_client(server: ServerProcess, tmp_path: Path) -> None:
    as_batches = smallest_job.through_batches(server.url, banking77(), tmp_path, [1, 3])
    assert len(as_batches) == 2
    path = examples.write_input(tmp_path / "input.jsonl", banking77(), "instant", count=6)
    by_client = vllm_baselines.send_jobs(server.url, path, tmp_path, sizes=[1, 5], inflight_max=2)
    assert len(by_client) == 2
    assert min(as_batches + by_client) > 0
    jobs = json.loads((tmp_path / "parallel-client.json").read_text())
    assert [(job["lines"], job["succeeded"]) for job in jobs] == [(1, 1), (5, 5)]


def test_a_job_with_a_refused_line_is_no_measurement(server: ServerProcess, tmp_path: Path) -> None:
    path = examples.write_input(tmp_path / "input.jsonl", banking77(), "no-such-model", count=2)
    with pytest.raises(CouldNotMeasure, match="got 0 of 2 lines"):
        vllm_baselines.send_jobs(server.url, path, tmp_path, sizes=[2], inflight_max=2)


def test_the_whole_measurement_runs_against_a_server_that_is_there(
    server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smallest_job, "SIZES_QUICK", (1, 4))
    monkeypatch.setattr(smallest_job, "REPEATS_MAX", 1)
    path = tmp_path / "report.json"
    argv = ["--smallest-job", "--quick", "--rounds", "1", "--upstream", server.url, "--json", str(path)]
    assert throughput.main(argv) == 0
    document = json.loads(path.read_text())
    assert {"fixed_cost_s", "wait_ratio_1_lines", "wait_ratio_4_lines"} <= set(document["figures"])
    assert [arm["name"] for arm in document["arms"]] == ["ours", "parallel_client", "ratio"]
