"""What `--by` takes for a time, and which instant it means."""

from __future__ import annotations

from datetime import datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightbatch.by import deadline_of

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN).timestamp()


@pytest.mark.parametrize(
    ("now", "text", "meant"),
    [
        ("2026-11-24T22:00", "07:00", "2026-11-25T07:00"),
        ("2026-11-24T06:59:59", "07:00", "2026-11-24T07:00"),
        ("2026-11-24T07:00", "07:00", "2026-11-25T07:00"),
        ("2026-11-24T22:00", "07:00:30", "2026-11-25T07:00:30"),
        ("2026-11-24T22:00", "fri 07:00", "2026-11-27T07:00"),
        ("2026-11-24T22:00", "Friday 07:00", "2026-11-27T07:00"),
        ("2026-11-24T22:00", "tue 07:00", "2026-12-01T07:00"),
        ("2026-11-24T22:00", "tue 23:00", "2026-11-24T23:00"),
        ("2026-11-24T22:00", "2026-12-24T18:00", "2026-12-24T18:00"),
        ("2026-11-24T22:00", "2026-12-24 18:00", "2026-12-24T18:00"),
        ("2026-11-24T22:00", "2026-12-24T17:00Z", "2026-12-24T18:00"),
        ("2026-11-24T22:00", "2026-12-24T18:00+01:00", "2026-12-24T18:00"),
        # The clocks go forward at 02:00 on 29 March and back at 03:00 on 25 October.
        ("2026-03-28T22:00", "07:00", "2026-03-29T07:00"),
        ("2026-03-28T22:00", "02:30", "2026-03-29T03:30"),
        ("2026-10-24T22:00", "02:30", "2026-10-25T02:30"),
        ("2026-10-24T22:00", "07:00", "2026-10-25T07:00"),
    ],
)
def test_a_time_means_its_next_coming_by_the_clocks_of_the_place(now: str, text: str, meant: str) -> None:
    assert deadline_of(text, now=at(now), zone=BERLIN) == at(meant)


@pytest.mark.parametrize(
    "text", ["", "7", "7am", "25:00", "07:00Z", "someday 07:00", "2026-13-01T07:00", "2026-12-24", "-", "07:00 fri"]
)
def test_what_is_no_time_is_refused_with_the_forms_that_are(text: str) -> None:
    with pytest.raises(ValueError, match="write"):
        deadline_of(text, now=at("2026-11-24T22:00"), zone=BERLIN)


def test_a_date_that_has_passed_is_refused() -> None:
    with pytest.raises(ValueError, match="has passed already"):
        deadline_of("2020-01-01T07:00", now=at("2026-11-24T22:00"), zone=BERLIN)


@given(
    now=st.integers(int(at("2026-01-01T00:00")), int(at("2027-12-31T00:00"))),
    wanted=st.times().map(lambda clock: clock.replace(microsecond=0)),
)
def test_a_time_of_day_is_always_ahead_and_within_a_day_and_an_hour(now: int, wanted: time) -> None:
    found = deadline_of(wanted.strftime("%H:%M:%S"), now=now, zone=BERLIN)
    assert 0 < found - now <= timedelta(hours=25).total_seconds()
    shown = datetime.fromtimestamp(found, BERLIN)
    skipped = f"{shown:%m-%d %H}" in ("03-29 03", "03-28 03")
    assert shown.time() == wanted or skipped


def test_without_a_zone_the_clock_of_this_machine_counts() -> None:
    now = datetime.fromisoformat("2026-11-24T22:00").timestamp()
    assert deadline_of("07:00", now=now) == int(datetime.fromisoformat("2026-11-25T07:00").timestamp())
