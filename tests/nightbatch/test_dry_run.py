"""A dry run: which lines it takes, and how far off its projections are."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nightbatch.dry_run import project, sample, spread, t_95


@given(st.integers(1, 1000), st.integers(1, 100_000))
def test_the_lines_are_distinct_and_spread_evenly(count: int, total: int) -> None:
    places = spread(count, total)
    assert len(places) == min(count, total)
    assert sorted(set(places)) == places
    assert places[0] >= 0
    assert places[-1] < total
    gaps = {after - before for before, after in itertools.pairwise(places)}
    assert not gaps or max(gaps) - min(gaps) <= 1


@given(st.lists(st.binary(max_size=20).map(lambda raw: raw.replace(b"\n", b"")), max_size=30), st.integers(1, 40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_a_sample_holds_lines_of_the_file_with_their_numbers(tmp_path: Path, lines: list[bytes], count: int) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\n".join(lines))
    full = [line for line in path.read_bytes().split(b"\n") if line.strip()]
    found = sample(path, count)
    assert found.lines == len(full)
    assert len(found.picked) == min(count, len(full))
    for line in found.picked:
        assert line.raw == lines[line.number - 1].rstrip(b"\r")


def test_a_line_without_custom_id_has_none(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"custom_id": "a"}\n{broken\n{"custom_id": 7}\n[]\n')
    assert [line.custom_id for line in sample(path, 4).picked] == ["a", None, None, None]


def test_all_lines_need_no_projection() -> None:
    assert project([3, 5, 9], 3) == project([3, 5, 9], 3, [1, 2, 3], 6)
    assert (project([3, 5, 9], 3).low, project([3, 5, 9], 3).high) == (17, 17)


def test_one_line_says_nothing_of_its_error() -> None:
    estimate = project([7], 100)
    assert (estimate.total, estimate.low, estimate.high) == (700, None, None)


def test_tokens_that_go_with_the_text_are_known_more_closely() -> None:
    sizes = [100, 200, 300, 400]
    tokens = [26, 49, 76, 99]
    by_size, plain = project(tokens, 1000, sizes, 250_000), project(tokens, 1000)
    assert by_size.low is not None
    assert by_size.high is not None
    assert plain.low is not None
    assert plain.high is not None
    assert by_size.high - by_size.low < (plain.high - plain.low) / 10
    assert by_size.low <= 62_500 <= by_size.high


def test_nineteen_of_twenty_intervals_hold_the_truth() -> None:
    chance = random.Random(20)
    held = 0
    for _ in range(400):
        population = [max(1, round(chance.gauss(120, 40))) for _ in range(500)]
        estimate = project(chance.sample(population, 10), len(population))
        assert estimate.low is not None
        assert estimate.high is not None
        held += estimate.low <= sum(population) <= estimate.high
    assert 0.91 <= held / 400 <= 0.99


@pytest.mark.parametrize(("degrees", "value"), [(1, 12.706), (9, 2.262), (30, 2.042), (60, 2.000), (999, 1.962)])
def test_students_t(degrees: int, value: float) -> None:
    assert t_95(degrees) == pytest.approx(value, abs=0.003)
