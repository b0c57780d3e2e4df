"""Many byte ranges of one file in few reads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from store.records import Damaged

RUN_BYTES_MAX: Final = 4 * 1024 * 1024
GAP_BYTES_MAX: Final = 4096
"""Ranges closer than this are fetched by one read: the bytes between cost less than another call."""


def read_ranges(fd: int, offsets: Sequence[int], lengths: Sequence[int], path: Path) -> list[bytes]:
    """The bytes of each range, in the order given. A range beyond the end of the file is Damaged."""
    found: list[bytes] = [b""] * len(offsets)
    order = sorted(range(len(offsets)), key=offsets.__getitem__)
    at = 0
    while at < len(order):
        start = offsets[order[at]]
        end = start + lengths[order[at]]
        stop = at + 1
        while stop < len(order):
            offset, length = offsets[order[stop]], lengths[order[stop]]
            if offset > end + GAP_BYTES_MAX or offset + length - start > RUN_BYTES_MAX:
                break
            end = max(end, offset + length)
            stop += 1
        run = read_exactly(fd, end - start, start, path)
        for place in order[at:stop]:
            found[place] = run[offsets[place] - start : offsets[place] - start + lengths[place]]
        at = stop
    return found


def read_exactly(fd: int, length: int, offset: int, path: Path) -> bytes:
    """`length` bytes from `offset`, or Damaged: one read may return less than asked for (2 GiB at most on Linux)."""
    data = os.pread(fd, length, offset)
    while len(data) < length:
        more = os.pread(fd, length - len(data), offset + len(data))
        if not more:
            raise Damaged(f"{path} ends at byte {offset + len(data)}, before the range {offset}+{length}")
        data += more
    return data
