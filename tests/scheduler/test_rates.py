"""How fast a model's lines end: what counts, and when."""

from __future__ import annotations

import pytest

from scheduler.facts.rates import ModelRate

HOUR = 3_600.0


def test_a_rough_rate_stays_while_nothing_is_left_to_do() -> None:
    """Or the next batch would seem too large for any window, and run in peak hours."""
    rate = ModelRate()
    rate.add(lines=6, busy_seconds=60.0, is_peak=True, is_full=False)
    for _ in range(100):
        rate.add(lines=0, busy_seconds=HOUR, is_peak=True, is_full=False)
    assert rate.seconds_per_line == pytest.approx(10.0)


def test_a_rough_rate_knows_that_slow_lines_take_time_in_which_none_ends() -> None:
    rate = ModelRate()
    for second in range(1, 401):
        rate.add(lines=int(second % 20 == 0), busy_seconds=1.0, is_peak=True, is_full=False)
    assert rate.seconds_per_line == pytest.approx(20.0, rel=0.05)


def test_a_rough_rate_is_forgotten_for_one_of_full_engines() -> None:
    rate = ModelRate()
    rate.add(lines=6, busy_seconds=60.0, is_peak=False, is_full=False)
    rate.add(lines=60, busy_seconds=60.0, is_peak=False, is_full=True)
    assert rate.seconds_per_line == pytest.approx(1.0)


def test_engines_that_have_lines_and_end_none_grow_slower() -> None:
    rate = ModelRate()
    rate.add(lines=60, busy_seconds=60.0, is_peak=False, is_full=True)
    rate.add(lines=0, busy_seconds=60.0, is_peak=False, is_full=True)
    assert rate.seconds_per_line > 1.5


def test_a_week_without_a_line_makes_none_take_for_ever() -> None:
    """A disk that is full over the holidays, or an engine that is stuck: what is planned by the rate stays a number."""
    rate = ModelRate()
    rate.add(lines=600, busy_seconds=60.0, is_peak=False, is_full=True)
    for _ in range(7 * 24):
        rate.add(lines=0, busy_seconds=HOUR, is_peak=False, is_full=True)
    assert rate.seconds_per_line < 1e6
    for _ in range(60):
        rate.add(lines=600, busy_seconds=60.0, is_peak=False, is_full=True)
    assert rate.seconds_per_line == pytest.approx(0.1, rel=0.05)
