"""The sequence of an ended batch: where its results stand in its files, in the order in which they became durable.

It lies beside the first of the files: a reader who was in the middle when the batch ended goes on where it was.
Header, a count per shard, then 16 bytes a result, shard by shard. Behind the shards stands one more for lines that
never had a result (expired, cancelled): no reader of the running batch has seen any of it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from store.durable import disk_full
from store.live import Place, page_of
from store.ranges import read_exactly, read_ranges
from store.records import Damaged, DiskFull

MAGIC: Final = b"nbseq001"
HEADER: Final = struct.Struct("<8sI")
ROW_DTYPE: Final = np.dtype([("offset", "<u8"), ("length", "<u4"), ("failed", "<u4")])
ROWS_AT_ONCE: Final = 65_536
RESULT_START: Final = b'{"id":"batch_req_'


@dataclass(frozen=True, slots=True, eq=False)
class Taken:
    """The lines that one segment gave results to, in the order written."""

    shard_no: int
    line_nos: npt.NDArray[np.uint32]


def write_sequence(
    path: Path, taken: Sequence[Taken], succeeded: npt.NDArray[np.bool_], lengths: npt.NDArray[Any]
) -> None:
    """Make it durable. `taken` by shard, and within it by generation; `lengths` of all lines, as they were composed."""
    total = len(succeeded)
    lost = np.ones(total, np.bool_)
    for one in taken:
        lost[one.line_nos] = False
    missing = np.flatnonzero(lost)
    counts = np.zeros(2 + max((one.shard_no for one in taken), default=-1), "<u4")
    for one in taken:
        counts[one.shard_no] += len(one.line_nos)
    counts[-1] = len(missing)
    offsets = _offsets(succeeded, lengths)
    try:
        with path.open("wb") as file:
            file.write(HEADER.pack(MAGIC, len(counts)) + counts.tobytes())
            parts: list[npt.NDArray[Any]] = [*(one.line_nos for one in taken), missing]
            for line_nos in parts:
                for start in range(0, len(line_nos), ROWS_AT_ONCE):
                    file.write(_rows(line_nos[start : start + ROWS_AT_ONCE], offsets, succeeded, lengths))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if disk_full(error):
            raise DiskFull(f"no room for the sequence of results: {error.strerror} ({path})") from error
        raise


def _rows(
    line_nos: npt.NDArray[Any],
    offsets: npt.NDArray[np.uint64],
    succeeded: npt.NDArray[np.bool_],
    lengths: npt.NDArray[Any],
) -> bytes:
    rows = np.zeros(len(line_nos), ROW_DTYPE)
    rows["offset"] = offsets[line_nos]
    rows["length"] = lengths[line_nos]
    rows["failed"] = ~succeeded[line_nos]
    return rows.tobytes()


def _offsets(succeeded: npt.NDArray[np.bool_], lengths: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Of each line in its own file: lines stand there in input order, each with a newline."""
    offsets = np.zeros(len(succeeded), np.uint64)
    for wanted in (True, False):
        at = np.uint64(0)
        for start in range(0, len(succeeded), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            chosen = succeeded[part] == wanted
            sizes = lengths[part][chosen].astype(np.uint64) + np.uint64(1)
            ends = np.cumsum(sizes, dtype=np.uint64) + at
            offsets[part][chosen] = ends - sizes
            at = ends[-1] if len(ends) else at
    return offsets


def read_ended_page(
    path: Path, output: Path | None, error: Path | None, place: Place, *, lines_max: int, bytes_max: int
) -> tuple[list[bytes], Place]:
    """As `store.live.read_page`, of a batch that has ended. Blocking.

    FileNotFoundError when the sequence or a file is gone (deleted, expired) or the batch never had one.
    """
    with path.open("rb") as file:
        fd = file.fileno()
        magic, shards = HEADER.unpack(read_exactly(fd, HEADER.size, 0, path))
        if magic != MAGIC:
            raise Damaged(f"{path} is no sequence of results")
        counts = np.frombuffer(read_exactly(fd, 4 * shards, HEADER.size, path), "<u4").astype(np.int64)
        starts = np.cumsum(counts) - counts
        rows_at = HEADER.size + 4 * shards

        def read(shard_no: int, skip: int, lines: int, size: int) -> list[bytes]:
            count = min(lines, int(counts[shard_no]) - skip)
            at = rows_at + ROW_DTYPE.itemsize * (int(starts[shard_no]) + skip)
            rows = np.frombuffer(read_exactly(fd, ROW_DTYPE.itemsize * count, at, path), ROW_DTYPE)
            fits = max(1, int(np.searchsorted(np.cumsum(rows["length"].astype(np.int64)), size, side="right")))
            return _lines(rows[:fits], output, error)

        return page_of(enumerate(counts.tolist()), place, read, lines_max=lines_max, bytes_max=bytes_max)


def _lines(rows: npt.NDArray[Any], output: Path | None, error: Path | None) -> list[bytes]:
    found = [b""] * len(rows)
    for path, chosen in ((output, rows["failed"] == 0), (error, rows["failed"] == 1)):
        places = np.flatnonzero(chosen)
        if not len(places):
            continue
        if path is None:
            raise FileNotFoundError("a result file of the batch")
        with path.open("rb") as file:
            part = rows[places]
            lines = read_ranges(file.fileno(), part["offset"].tolist(), part["length"].tolist(), path)
        for place, line in zip(places.tolist(), lines, strict=True):
            if not line.startswith(RESULT_START):
                raise Damaged(f"{path} does not have the results that its sequence says")
            found[place] = line
    return found
