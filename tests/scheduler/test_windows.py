from __future__ import annotations

import itertools
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.facts.windows import Calendar, Interval, Window, may_wait, window_days

BERLIN = ZoneInfo("Europe/Berlin")
EVERY_DAY = frozenset(range(7))
HOUR = 3600.0


def at(text: str, zone: ZoneInfo = BERLIN, *, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).timestamp()


def window(start: str, end: str, *, days: frozenset[int] = EVERY_DAY, zone: ZoneInfo = BERLIN) -> Window:
    return Window("night", days, time.fromisoformat(start), time.fromisoformat(end), zone)


@pytest.mark.parametrize(
    ("start", "end", "day", "hours"),
    [
        ("22:00", "06:00", "2026-03-28", 7),  # the clocks go forward in this night
        ("22:00", "06:00", "2026-10-24", 9),  # and back in this one
        ("22:00", "06:00", "2026-06-10", 8),
        ("02:00", "03:00", "2026-03-29", 0),  # the hour that does not exist
        ("02:30", "04:00", "2026-03-29", 1),  # begins within it: from the change on
        ("01:00", "02:30", "2026-03-29", 1),  # ends within it: at the change
        ("02:00", "03:00", "2026-10-25", 2),  # the hour that comes twice
        ("02:30", "02:45", "2026-10-25", 1.25),  # from its first coming to its second
        ("00:00", "00:00", "2026-10-25", 25),
        ("00:00", "00:00", "2026-03-29", 23),
    ],
)
def test_a_window_lasts_as_long_as_the_clocks_make_it(start: str, end: str, day: str, hours: float) -> None:
    found = window(start, end).on(date.fromisoformat(day))
    assert (found.end_at - found.start_at) / HOUR == hours


def test_a_window_is_open_from_its_start_until_before_its_end() -> None:
    calendar = Calendar((window("22:00", "06:00"),))
    start, end = at("2026-06-10T22:00"), at("2026-06-11T06:00")
    assert calendar.open_at(start - 1) is None
    assert calendar.open_at(start) == Interval("night", start, end)
    assert calendar.open_at(end - 1) == Interval("night", end - 1, end)
    assert calendar.open_at(end) is None


def test_a_window_that_ends_next_day_belongs_to_the_day_on_which_it_starts() -> None:
    calendar = Calendar((window("22:00", "06:00", days=window_days(["fri"])),))
    assert calendar.open_at(at("2026-06-13T05:00")) is not None  # a Saturday morning
    assert calendar.open_at(at("2026-06-12T05:00")) is None
    assert calendar.open_at(at("2026-06-13T23:00")) is None


def test_windows_that_touch_or_overlap_are_one() -> None:
    calendar = Calendar((window("20:00", "23:00"), window("22:00", "02:00"), window("02:00", "05:00")))
    start, end = at("2026-06-10T20:00"), at("2026-06-11T05:00")
    assert calendar.open_at(start) == Interval("night", start, end)
    assert calendar.open_at(start - 1) is None


def test_windows_of_several_zones_lie_side_by_side() -> None:
    tokyo = window("09:00", "10:00", zone=ZoneInfo("Asia/Tokyo"))
    calendar = Calendar((window("22:00", "23:00"), tokyo))
    day = calendar.intervals(at("2026-06-10T00:00"), at("2026-06-11T00:00"))
    assert [(found.start_at, found.end_at) for found in day] == [
        (at("2026-06-10T02:00"), at("2026-06-10T03:00")),
        (at("2026-06-10T22:00"), at("2026-06-10T23:00")),
    ]


def test_a_holiday_is_off_peak_all_day() -> None:
    calendar = Calendar((window("22:00", "06:00"),), frozenset({date(2026, 12, 25)}), BERLIN)
    start, end = at("2026-12-24T22:00"), at("2026-12-26T06:00")
    assert calendar.open_at(start) == Interval("night", start, end)


def test_windows_that_never_close_are_open_as_far_as_one_looks() -> None:
    found = Calendar((window("00:00", "00:00"),)).open_at(0.0)
    assert found is not None
    assert found.end_at >= 366 * 24 * HOUR


def test_the_next_opening_is_found_over_a_week_and_over_the_hour_that_does_not_exist() -> None:
    weekly = Calendar((window("01:00", "02:00", days=window_days(["sun"])),))
    assert weekly.next_opening(at("2026-06-14T02:00")) == at("2026-06-21T01:00")
    missing = Calendar((window("02:00", "03:00"),))
    assert missing.next_opening(at("2026-03-29T00:00")) == at("2026-03-30T02:00")


def test_a_window_that_never_opens_has_no_next_opening() -> None:
    assert Calendar((window("02:00", "03:00", days=frozenset()),)).next_opening(at("2026-03-29T00:00")) is None


def test_without_windows_every_hour_is_open() -> None:
    assert Calendar().is_always_open
    assert Calendar().open_seconds(100.0, 160.0) == 60.0


WINDOWS = st.builds(
    Window,
    st.sampled_from(["a", "b"]),
    st.frozensets(st.integers(0, 6), min_size=1),
    st.times().map(lambda found: found.replace(second=0, microsecond=0)),
    st.times().map(lambda found: found.replace(second=0, microsecond=0)),
    st.sampled_from([BERLIN, ZoneInfo("America/New_York"), ZoneInfo("Australia/Lord_Howe"), ZoneInfo("UTC")]),
)
INSTANTS = st.integers(1_767_225_600, 1_830_297_600).map(float)
"""2026 and 2027."""


@given(st.lists(WINDOWS, min_size=1, max_size=3), INSTANTS, st.integers(0, 30 * 24 * 3600))
def test_what_is_open_agrees_with_itself(windows: list[Window], since: float, span: int) -> None:
    """Intervals are in order and apart, `open_at` finds them from any instant within, and their lengths add up."""
    calendar = Calendar(tuple(windows))
    until = since + span
    found = calendar.intervals(since, until)
    assert all(one.start_at < one.end_at for one in found)
    assert all(one.end_at < two.start_at for one, two in itertools.pairwise(found))
    for one in found:
        around = calendar.open_at(one.end_at - 1)
        assert around is not None
        assert around.end_at >= one.end_at
        assert around.end_at == one.end_at or one.end_at == until
        assert (calendar.open_at(one.end_at) is None) == (around.end_at == one.end_at)
    assert 0 <= calendar.open_seconds(since, until) <= span
    middle = since + span / 2
    parts = calendar.open_seconds(since, middle) + calendar.open_seconds(middle, until)
    assert parts == pytest.approx(calendar.open_seconds(since, until))


@given(WINDOWS, INSTANTS)
def test_a_window_is_open_exactly_when_the_clock_on_the_wall_says_so(one: Window, instant: float) -> None:
    """Away from the hours at which clocks change, where the wall's clock itself is of two minds."""
    local = datetime.fromtimestamp(instant, one.zone)
    near = [local + timedelta(days=days) for days in (-2, -1, 1, 2)]
    if len({moment.utcoffset() for moment in near}) > 1:
        return
    clock = local.time().replace(microsecond=0)
    if one.end > one.start:
        says = local.weekday() in one.days and one.start <= clock < one.end
    else:
        says = (local.weekday() in one.days and clock >= one.start) or (
            (local.weekday() - 1) % 7 in one.days and clock < one.end
        )
    assert (Calendar((one,)).open_at(instant) is not None) == says


@pytest.mark.parametrize(
    ("names", "days"),
    [(["mon-fri"], {0, 1, 2, 3, 4}), (["fri-mon"], {4, 5, 6, 0}), (["Sat", "sun"], {5, 6}), (["mon-mon"], {0})],
)
def test_days_are_names_and_ranges(names: list[str], days: set[int]) -> None:
    assert window_days(names) == days


@pytest.mark.parametrize("name", ["", "monday", "mon-", "-fri", "mon-fry", "8"])
def test_what_is_no_day_is_named(name: str) -> None:
    with pytest.raises(ValueError, match="is no day: write mon, tue"):
        window_days([name])


@pytest.mark.parametrize(
    ("work_hours", "deadline", "waits"),
    [
        (1.0, "2026-06-11T06:00", True),
        (6.0, "2026-06-11T06:00", True),
        (6.5, "2026-06-11T06:00", False),  # with its margin more than the night has
        (1.0, "2026-06-10T22:30", False),
        (None, "2026-06-10T23:00", True),
        (None, "2026-06-10T21:00", False),  # no window before the deadline
    ],
)
def test_work_waits_for_the_window_only_if_it_fits_into_it(
    work_hours: float | None, deadline: str, waits: bool
) -> None:
    assert (
        may_wait(
            Calendar((window("22:00", "06:00"),)),
            now=at("2026-06-10T12:00"),
            deadline=at(deadline),
            work_seconds=None if work_hours is None else work_hours * HOUR,
            margin=1.25,
            reserve_seconds=600,
        )
        == waits
    )
