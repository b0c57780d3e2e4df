"""When a model is there: the windows, what lies between them, and what its starts cost."""

from __future__ import annotations

from datetime import datetime, time
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.facts.hours import Hours, next_change, open_at, serving_seconds, spans
from scheduler.facts.windows import Calendar, Window

BERLIN = ZoneInfo("Europe/Berlin")
NIGHTS = Calendar((Window("night", frozenset(range(7)), time(22), time(6), BERLIN),), zone=BERLIN)
HOUR = 3600.0


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN).timestamp()


@pytest.mark.parametrize(
    ("hours", "when", "is_open", "changes"),
    [
        (Hours.OFF_PEAK, "2026-11-24 21:59", False, "2026-11-24 22:00"),
        (Hours.OFF_PEAK, "2026-11-24 22:00", True, "2026-11-25 06:00"),
        (Hours.PEAK, "2026-11-24 21:59", True, "2026-11-24 22:00"),
        (Hours.PEAK, "2026-11-24 22:00", False, "2026-11-25 06:00"),
        (Hours.ALWAYS, "2026-11-24 22:00", True, None),
    ],
)
def test_a_model_is_there_in_its_hours_and_changes_at_their_ends(
    hours: Hours, when: str, is_open: bool, changes: str | None
) -> None:
    assert open_at(hours, NIGHTS, at(when)) is is_open
    assert next_change(hours, NIGHTS, at(when)) == (None if changes is None else at(changes))


def test_without_windows_it_is_always_off_peak_and_never_peak() -> None:
    assert open_at(Hours.OFF_PEAK, Calendar(), 0.0)
    assert not open_at(Hours.PEAK, Calendar(), 0.0)
    assert spans(Hours.PEAK, Calendar(), 0.0, 100.0) == []


def test_every_return_costs_a_start_but_for_an_engine_that_is_there() -> None:
    since, until = at("2026-11-24 23:00"), at("2026-11-26 00:00")
    nights = {"since": since, "until": until, "start_seconds": 600.0}
    assert serving_seconds(Hours.OFF_PEAK, NIGHTS, is_ready=True, **nights) == 7 * HOUR + 2 * HOUR - 600
    assert serving_seconds(Hours.OFF_PEAK, NIGHTS, is_ready=False, **nights) == 9 * HOUR - 1200


def test_a_window_shorter_than_the_start_serves_nothing() -> None:
    since, until = at("2026-11-24 05:30"), at("2026-11-24 12:00")
    assert serving_seconds(Hours.OFF_PEAK, NIGHTS, since=since, until=until, start_seconds=HOUR, is_ready=False) == 0


def test_the_night_on_which_clocks_go_back_is_an_hour_longer() -> None:
    since, until = at("2026-10-24 12:00"), at("2026-10-25 12:00")
    assert (
        serving_seconds(Hours.OFF_PEAK, NIGHTS, since=since, until=until, start_seconds=0, is_ready=False) == 9 * HOUR
    )
    assert serving_seconds(Hours.PEAK, NIGHTS, since=since, until=until, start_seconds=0, is_ready=False) == 16 * HOUR


@settings(deadline=None)  # a busy machine
@given(since=st.floats(1.76e9, 1.8e9), length=st.floats(0, 40 * 24 * HOUR))
def test_off_peak_and_peak_together_are_the_whole_time(since: float, length: float) -> None:
    both = [*spans(Hours.OFF_PEAK, NIGHTS, since, since + length), *spans(Hours.PEAK, NIGHTS, since, since + length)]
    assert sum(end - start for start, end in both) == pytest.approx(length, abs=1e-3)
