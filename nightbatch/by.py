"""`--by 07:00`: a time as people say it, and the next instant that it means."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta, tzinfo

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
FORMS = "07:00, `fri 07:00`, 2026-07-01T07:00 (this machine's time) or 2026-07-01T07:00+02:00"


def deadline_of(text: str, *, now: float, zone: tzinfo | None = None) -> int:
    """Unix seconds of the next time that the clocks of `zone` (None: this machine's) show `text`, or of a whole date.

    Of an hour that comes twice the first is meant; one that does not exist is an hour later on the clock. ValueError
    says how to write it, or that it has passed.
    """
    at = _of_date(text, zone) if "-" in text else _of_clock(text, now, zone)
    if at <= now:
        raise ValueError(f"{text} has passed already")
    return int(at // 1)


def _of_date(text: str, zone: tzinfo | None) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise _no_time(text) from None
    if "T" not in text.upper() and " " not in text:
        raise ValueError(f"{text} has no time of day: write {text}T07:00")
    return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).timestamp()


def _of_clock(text: str, now: float, zone: tzinfo | None) -> float:
    day_name, _, clock = text.strip().lower().rpartition(" ")
    if day_name and day_name.strip()[:3] not in DAYS:
        raise _no_time(text)
    try:
        wanted = time.fromisoformat(clock)
    except ValueError:
        raise _no_time(text) from None
    if wanted.tzinfo is not None or ":" not in clock:
        raise _no_time(text)
    today = datetime.fromtimestamp(now, zone).date()
    days = (today + timedelta(days=ahead) for ahead in range(9))
    if day_name:
        weekday = DAYS.index(day_name.strip()[:3])
        days = (day for day in days if day.weekday() == weekday)
    return next(at for at in (_instant(day, wanted, zone) for day in days) if at > now)


def _instant(day: date, wanted: time, zone: tzinfo | None) -> float:
    return datetime.combine(day, wanted, zone).timestamp()


def _no_time(text: str) -> ValueError:
    return ValueError(f"{text!r} is no time: write {FORMS}")
