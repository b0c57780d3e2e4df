"""`expires_after`, in whichever spelling it arrives: the anchor is always the creation, the seconds are bounded."""

from __future__ import annotations

from server.errors import ApiError, invalid, missing, shown
from server.settings import ServerSettings

ANCHOR = "created_at"


def check_expires_after(anchor: object, seconds: object, *, names: tuple[str, str], settings: ServerSettings) -> int:
    """The seconds, checked. `names` are the two fields as the client wrote them."""
    anchor_name, seconds_name = names
    if anchor is None:
        raise missing(anchor_name)
    if anchor != ANCHOR:
        raise invalid(anchor_name, f"expected '{ANCHOR}', but got {shown(anchor)}.")
    if seconds is None:
        raise missing(seconds_name)
    if not isinstance(seconds, int) or isinstance(seconds, bool):
        raise invalid(seconds_name, f"expected an integer, but got {shown(seconds)}.", code="invalid_type")
    low, high = settings.expires_after_seconds_min, settings.expires_after_seconds_max
    if not low <= seconds <= high:
        raise ApiError(
            400,
            f"Invalid '{seconds_name}': expected a value from {low} to {high}, but got {shown(str(seconds))}.",
            param=seconds_name,
            code="integer_out_of_range",
        )
    return seconds
