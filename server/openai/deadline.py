"""`deadline_at`: a deadline by the clock, in place of the one that the completion window would give."""

from __future__ import annotations

from datetime import datetime

from server.errors import ApiError, invalid, shown
from server.settings import DAY_SECONDS, ServerSettings

FIELD = "deadline_at"
FORMS = "Unix seconds, or ISO 8601 with a zone such as '2026-07-01T07:00:00+02:00'"


def read_deadline(value: object, settings: ServerSettings, *, now: float) -> int | None:
    """Unix seconds, checked; None where none is asked for. Parts of a second are dropped: earlier is safe."""
    if value is None:
        return None
    at = _instant(value)
    if at <= now:
        raise invalid(FIELD, "the deadline has passed already.")
    if at > now + settings.deadline_seconds_max:
        days = settings.deadline_seconds_max // DAY_SECONDS
        raise invalid(FIELD, f"the deadline is more than {days} days ahead; seconds are meant, not milliseconds.")
    return at


def _instant(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, str):
        raise _wrong_type()
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise invalid(FIELD, f"{shown(value)} is no time; expected {FORMS}.") from None
    if moment.tzinfo is None:
        raise invalid(FIELD, f"{shown(value)} has no zone, and yours need not be the server's; expected {FORMS}.")
    return int(moment.timestamp() // 1)


def _wrong_type() -> ApiError:
    return invalid(FIELD, f"expected {FORMS}.", code="invalid_type")
