from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import online_trace
from benchmarks.online_trace import Alone, Arrival

ALONE = Alone(ttft=0.05, itl=0.015)
spans = st.lists(
    st.tuples(st.floats(min_value=0, max_value=100), st.floats(min_value=0, max_value=20)).map(
        lambda pair: (pair[0], pair[0] + pair[1])
    ),
    max_size=12,
)


@pytest.mark.parametrize("name", sorted(online_trace.TRACES))
def test_the_traces_that_ship_are_whole_and_in_order(name: str) -> None:
    trace = online_trace.read_trace(name)
    assert len(trace) > 8_000
    assert all(before.at <= after.at for before, after in pairwise(trace))
    lengths = {one.output_tokens for one in trace}
    assert online_trace.OUTPUT_TOKENS_MIN <= min(lengths) < max(lengths) <= online_trace.OUTPUT_TOKENS_MAX


def test_there_are_eighty_questions() -> None:
    assert len(set(online_trace.read_texts())) == 80


@pytest.mark.parametrize("name", sorted(online_trace.TRACES))
@pytest.mark.parametrize("wanted", [0.275, 0.55])
def test_a_trace_is_stretched_to_the_presence_that_is_wanted(name: str, wanted: float) -> None:
    trace = online_trace.read_trace(name)
    windows = online_trace.stretched(trace, windows=8, seconds=30, alone=ALONE, wanted=wanted)
    assert online_trace.presence(windows, seconds=30, alone=ALONE) == pytest.approx(wanted, abs=0.03)
    assert all(0 <= one.at < 30 for window in windows for one in window)


def test_windows_are_spread_over_the_trace_and_keep_its_gaps() -> None:
    trace = [Arrival(float(second), 8) for second in range(100)]
    windows = online_trace.cut(trace, windows=2, seconds=20, stretch=2.0)
    assert [len(window) for window in windows] == [10, 10]
    assert {after.at - before.at for window in windows for before, after in pairwise(window)} == {2.0}


def test_time_in_which_requests_overlap_counts_once() -> None:
    assert online_trace.covered([(0, 4), (2, 6), (8, 12)], 1, 10) == 7


@given(spans)
def test_covered_time_is_never_more_than_the_window_or_the_spans_together(found: list[tuple[float, float]]) -> None:
    covered = online_trace.covered(found, 10, 60)
    assert 0 <= covered <= 50
    assert covered <= sum(end - start for start, end in found) + 1e-6
