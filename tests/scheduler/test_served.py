"""What can be done by when on models that are not always there."""

from __future__ import annotations

from datetime import datetime, time
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.facts.capacity import Capacity, Served, Supply
from scheduler.facts.hours import Hours, serving_seconds
from scheduler.facts.windows import Calendar, Window
from scheduler.facts.work import ModelKey

BERLIN = ZoneInfo("Europe/Berlin")
NIGHTS = Calendar((Window("night", frozenset(range(7)), time(22), time(6), BERLIN),), zone=BERLIN)
HOUR = 3600.0
NOON = datetime(2026, 11, 24, 12, tzinfo=BERLIN).timestamp()
DAY = 24 * HOUR


def supply(now: float, **served: Served) -> Supply:
    return Supply(NIGHTS, now=now, until=now + 30 * DAY, peak_share=0.5, served=served)


def keys(*models: str) -> list[ModelKey]:
    return [ModelKey(model, "r") for model in models]


@pytest.mark.parametrize(
    ("served", "off_peak_hours", "all_hours"),
    [
        (Served(), 8, 8 + 8),  # 16 h of peak time count half
        (Served(Hours.OFF_PEAK, start_seconds=0.5 * HOUR), 7.5, 7.5),
        (Served(Hours.PEAK, start_seconds=HOUR), 0, (10 + 6 - 1) / 2),  # it returns at 06:00
        (Served(Hours.PEAK, start_seconds=HOUR, is_ready=False), 0, (10 - 1 + 6 - 1) / 2),
    ],
)
def test_a_day_from_noon_holds_what_the_hours_of_the_model_do(
    served: Served, off_peak_hours: float, all_hours: float
) -> None:
    capacity = supply(NOON, m=served).of(keys("m"))
    assert capacity.off_peak_seconds(NOON + DAY) == pytest.approx(off_peak_hours * HOUR)
    assert capacity.seconds(NOON + DAY) == pytest.approx(all_hours * HOUR)


def test_a_start_that_is_under_way_is_counted_and_one_that_is_over_is_not() -> None:
    night = NOON + 11 * HOUR
    asked = {"until": night + 2 * HOUR}
    ready, starting = (Served(Hours.OFF_PEAK, 600.0, is_ready=is_ready) for is_ready in (True, False))
    assert supply(night, m=ready).of(keys("m")).seconds(**asked) == 2 * HOUR
    assert supply(night, m=starting).of(keys("m")).seconds(**asked) == 2 * HOUR - 600


def test_work_on_models_of_different_hours_may_run_at_any_hour() -> None:
    found = supply(NOON, night=Served(Hours.OFF_PEAK), day=Served(Hours.PEAK)).of(keys("night", "day"))
    assert found.seconds(NOON + DAY) == supply(NOON).of(keys("other")).seconds(NOON + DAY)


@given(
    since=st.floats(1.76e9, 1.8e9),
    length=st.floats(1, 20 * DAY),
    start_seconds=st.floats(0, 10 * HOUR),
    is_ready=st.booleans(),
)
def test_capacity_is_what_the_model_serves(
    since: float, length: float, start_seconds: float, *, is_ready: bool
) -> None:
    served = Served(Hours.OFF_PEAK, start_seconds, is_ready=is_ready)
    expected = serving_seconds(
        Hours.OFF_PEAK,
        NIGHTS,
        since=since,
        until=since + length,
        start_seconds=start_seconds,
        is_ready=is_ready,
    )
    assert supply(since, m=served).of(keys("m")).seconds(since + length) == pytest.approx(expected, abs=1e-3)


@given(hours=st.sampled_from(Hours), start_seconds=st.floats(0, 10 * HOUR), steps=st.lists(st.floats(0, DAY)))
def test_later_deadlines_never_leave_less(hours: Hours, start_seconds: float, steps: list[float]) -> None:
    capacity = Capacity(
        NIGHTS, now=NOON, until=NOON + 9 * DAY, peak_share=0.4, hours=hours, opening_seconds=start_seconds
    )
    until, before = NOON, 0.0
    for step in steps:
        until += step
        after = capacity.seconds(until)
        assert after >= before - 1e-3
        before = after
