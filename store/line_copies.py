"""Gathering lines from many segments into one run of bytes, with few files open and reads that go forwards."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from store.records import Damaged

WINDOW_BYTES: Final = 8 * 1024 * 1024
WINDOW_LINES: Final = 16_384
OPEN_FILES_MAX: Final = 128


def windows_of(
    chosen: npt.NDArray[np.bool_], lengths: npt.NDArray[Any], bytes_max: Callable[[], int] = lambda: WINDOW_BYTES
) -> Iterator[npt.NDArray[np.int64]]:
    """Cut the chosen lines into windows of at most WINDOW_LINES lines, and of `bytes_max` or a single line. That is
    asked before each window, and makes no difference to what they hold together."""
    for first in range(0, len(chosen), WINDOW_LINES):
        part = np.flatnonzero(chosen[first : first + WINDOW_LINES]) + first
        ends = np.cumsum(lengths[part].astype(np.int64) + 1)
        at = 0
        while at < len(part):
            before = int(ends[at - 1]) if at else 0
            stop = max(int(np.searchsorted(ends, before + bytes_max(), side="right")), at + 1)
            yield part[at:stop]
            at = stop


class Copier:
    """Reads from the segments of one batch. Use it in `with`."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._open: OrderedDict[int, int] = OrderedDict()
        self._buffer = bytearray(WINDOW_BYTES)

    def __enter__(self) -> Copier:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()
        self._buffer = bytearray()

    def gather(
        self,
        segments: npt.NDArray[Any],
        offsets: npt.NDArray[Any],
        lengths: npt.NDArray[Any],
        given: npt.NDArray[np.int64],
        lines: Sequence[bytes],
    ) -> memoryview:
        """The lines in order, each with its newline: those at the places `given` are `lines`, the others are read.

        The result is good until the next call.
        """
        sizes = lengths.astype(np.int64) + 1
        ends = np.cumsum(sizes)
        starts = ends - sizes
        total = int(ends[-1])
        if total > len(self._buffer):
            self._buffer = bytearray(total)
        buffer = memoryview(self._buffer)[:total]
        for place, line in zip(given.tolist(), lines, strict=True):
            start = int(starts[place])
            buffer[start : start + len(line)] = line
            buffer[start + len(line)] = 0x0A
        read = np.setdiff1d(np.arange(len(sizes)), given, assume_unique=True)
        for segment, offset, start, size in _pieces(segments[read], offsets[read], starts[read], sizes[read]):
            self._read(segment, offset, buffer[start : start + size])
        return buffer

    def _read(self, segment: int, offset: int, into: memoryview) -> None:
        fd = self._fd(segment)
        while into:
            got = os.preadv(fd, [into], offset)
            if got == 0:
                raise Damaged(f"segment {self._paths[segment]} ends at byte {offset}, inside a line that counts")
            offset += got
            into = into[got:]

    def _fd(self, segment: int) -> int:
        fd = self._open.get(segment)
        if fd is None:
            if len(self._open) == OPEN_FILES_MAX:
                os.close(self._open.popitem(last=False)[1])
            fd = self._open[segment] = os.open(self._paths[segment], os.O_RDONLY | os.O_CLOEXEC)
        else:
            self._open.move_to_end(segment)
        return fd


def _pieces(
    segments: npt.NDArray[Any], offsets: npt.NDArray[Any], starts: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]
) -> Iterator[tuple[int, int, int, int]]:
    """(segment, offset, place in the buffer, bytes) of what can be read in one go, segment by segment and forwards.

    Lines that are neighbours in a segment and in the buffer make one piece.
    """
    if len(sizes) == 0:
        return
    order = np.lexsort((offsets, segments))
    segment, offset, start, size = segments[order], offsets[order].astype(np.int64), starts[order], sizes[order]
    breaks = (
        (segment[1:] != segment[:-1]) | (offset[1:] != offset[:-1] + size[:-1]) | (start[1:] != start[:-1] + size[:-1])
    )
    first = np.concatenate(([0], np.flatnonzero(breaks) + 1))
    piece_bytes = np.add.reduceat(size, first)
    yield from zip(
        segment[first].tolist(), offset[first].tolist(), start[first].tolist(), piece_bytes.tolist(), strict=True
    )
