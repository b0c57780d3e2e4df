"""The line through an engine's step times."""

from __future__ import annotations

import math
import random

from hypothesis import given
from hypothesis import strategies as st

from scheduler.policy.step_fit import FORGET_SECONDS, StepFit


def fed(*groups: tuple[int, float, int], fit: StepFit | None = None, now: float = 0.0) -> StepFit:
    """Samples as (running, milliseconds, how often)."""
    fit = fit or StepFit()
    for running, step_ms, times in groups:
        for _ in range(times):
            fit = fit.seen(running, step_ms, now=now)
    return fit


def test_one_count_of_requests_makes_no_line() -> None:
    assert not fed((64, 136.0, 1000)).is_trusted


def test_two_counts_make_a_line() -> None:
    fit = fed((64, 136.12, 5), (8, 29.44, 5))
    assert fit.is_trusted
    assert math.isclose(fit.base_ms, 14.2, rel_tol=1e-6)
    assert math.isclose(fit.each_ms, 1.905, rel_tol=1e-6)
    assert math.isclose(fit.running_within(29.44), 8.0, rel_tol=1e-6)


def test_hours_at_full_load_do_not_drown_what_was_seen_at_low_load() -> None:
    chance = random.Random(1)
    fit = fed((8, 29.4, 10))
    for _ in range(5000):
        fit = fit.seen(64, 136.0 * chance.uniform(0.9, 1.1), now=1.0)
    assert fit.is_trusted
    assert 12 < fit.base_ms < 16


def test_what_was_seen_long_ago_is_forgotten() -> None:
    fit = fed((8, 29.4, 10))
    assert not fed((64, 136.0, 10), fit=fit, now=FORGET_SECONDS + 1).is_trusted


def test_a_flat_engine_has_room_for_endlessly_many() -> None:
    fit = fed((1, 5.0, 5), (64, 4.9, 5))
    assert fit.is_trusted
    assert fit.each_ms == 0.0
    assert fit.running_within(10.0) == math.inf
    assert fit.running_within(1.0) == 0.0


def test_what_says_nothing_is_left_out() -> None:
    fit = fed((8, 29.4, 10))
    for running, step_ms in ((0, 5.0), (4, 0.0), (-1, 1.0), (4, math.nan), (4, math.inf)):
        assert fit.seen(running, step_ms, now=0.0) == fit


@given(st.lists(st.tuples(st.integers(1, 500), st.floats(0.001, 1e6)), max_size=60))
def test_whatever_is_seen_the_line_neither_falls_nor_goes_below_nothing(samples: list[tuple[int, float]]) -> None:
    fit = StepFit()
    for at, (running, step_ms) in enumerate(samples):
        fit = fit.seen(running, step_ms, now=float(at))
        assert fit.base_ms >= 0
        assert fit.each_ms >= 0
        assert math.isfinite(fit.step_ms(10))
        assert fit.running_within(100.0) >= 0
        assert not fit.is_trusted or fit.base_ms > 0
