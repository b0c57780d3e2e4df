"""The `Range` header of HTTP, for one range of bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass

_RANGE = re.compile(r"bytes=\s*(\d{0,18})\s*-\s*(\d{0,18})\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ByteRange:
    """From `start` to `stop`, exclusive; never empty."""

    start: int
    stop: int


class Unsatisfiable(Exception):
    """The range lies wholly beyond the bytes there are."""


def parse_range(header: str | None, size: int) -> ByteRange | None:
    """The one range asked for. None (send everything, as RFC 9110 allows) when there is none, when it is malformed, or
    when several are asked for."""
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None or match.group(1) == match.group(2) == "":
        return None
    first, last = match.groups()
    if first == "":
        length = min(int(last), size)
        if length == 0:
            raise Unsatisfiable
        return ByteRange(size - length, size)
    start = int(first)
    stop = size if last == "" else min(int(last) + 1, size)
    if last != "" and int(last) < start:
        return None
    if start >= size:
        raise Unsatisfiable
    return ByteRange(start, stop)
