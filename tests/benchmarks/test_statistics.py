from __future__ import annotations

import statistics as standard

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import statistics

finite = st.floats(min_value=-1e9, max_value=1e9, allow_nan=False)
positive = st.floats(min_value=1e-6, max_value=1e6)
several = st.lists(finite, min_size=2, max_size=9)


@settings(deadline=None)
@given(st.lists(finite, min_size=1))
def test_the_median_is_the_one_everybody_means(values: list[float]) -> None:
    assert statistics.median(values) == pytest.approx(standard.median(values), rel=1e-12, abs=1e-9)


@settings(deadline=None)
@given(st.lists(finite, min_size=1), st.floats(min_value=0, max_value=1))
def test_a_quantile_was_measured_and_the_share_does_not_exceed_it(values: list[float], share: float) -> None:
    found = statistics.quantile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)


@settings(deadline=None)
@given(several)
def test_an_interval_lies_within_what_was_measured(values: list[float]) -> None:
    interval = statistics.bootstrap_interval(values, resamples=50)
    assert interval is not None
    assert min(values) <= interval[0] <= interval[1] <= max(values)


@settings(deadline=None)
@given(several, st.integers())
def test_a_seed_repeats_an_interval(values: list[float], seed: int) -> None:
    first, second = (statistics.bootstrap_interval(values, seed=seed, resamples=50) for _ in range(2))
    assert first == second


def test_one_measurement_has_no_interval() -> None:
    assert statistics.bootstrap_interval([1.0]) is None


def test_equal_measurements_have_an_interval_of_no_width() -> None:
    assert statistics.bootstrap_interval([2.0] * 5) == (2.0, 2.0)


@settings(deadline=None)
@given(st.lists(st.tuples(positive, positive), min_size=1))
def test_ratios_are_formed_round_by_round(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    assert statistics.ratios(ours, theirs) == [mine / other for mine, other in pairs]


@settings(deadline=None)
@given(st.lists(positive, min_size=1), positive)
def test_drift_that_hits_both_arms_leaves_the_ratio_alone(rates: list[float], factor: float) -> None:
    slower = [rate * factor for rate in rates]
    assert statistics.ratios(slower, slower) == [1.0] * len(rates)


def test_arms_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="equally many rounds"):
        statistics.ratios([1.0, 2.0], [1.0])


def test_a_rate_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="did not measure"):
        statistics.ratios([1.0], [0.0])


def test_nothing_has_no_median() -> None:
    with pytest.raises(ValueError, match="at least once"):
        statistics.median([])
