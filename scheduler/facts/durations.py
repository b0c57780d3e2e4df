"""How long something takes, in the words of a sentence."""

from __future__ import annotations

MINUTE = 60
HOUR = 3600
DAY = 24 * HOUR


def duration(seconds: float) -> str:
    """`40 s`, `25 min`, `1.5 h`, `31 h`, `9 d`: two digits are enough for an estimate."""
    seconds = max(0.0, seconds)
    for unit, length, until in (("s", 1, 90), ("min", MINUTE, 90 * MINUTE), ("h", HOUR, 5 * DAY)):
        if seconds < until:
            return f"{_short(seconds / length)} {unit}"
    return f"{_short(seconds / DAY)} d"


def _short(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0") if 0 < number < 9.95 else f"{number:,.0f}"
