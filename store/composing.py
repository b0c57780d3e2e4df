"""Composing: from segments in execution order to an output and an error file in input order.

First every segment is checksummed and each line's place noted, 16 bytes a line. Then the lines are copied in input
order through one window: within it the reads go segment by segment and forwards, and the window is written in one
piece. The same segments give the same bytes, however often.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from store.blobs import Blobs, BlobWriter, StoredBlob
from store.line_copies import WINDOW_BYTES, Copier, windows_of
from store.pacing import Pace
from store.records import Damaged, RequestCounts, TokenUsage
from store.segments import scan, usage_of
from store.sequence import Taken, write_sequence

PACED_WINDOW_BYTES: Final = 512 * 1024
"""What is copied in one go while the pace is limited: some milliseconds of a core."""

SCANNED_BYTES_PER_COPIED: Final = 4
"""Checksumming so many bytes takes about as long as copying one."""

NOWHERE: Final = 0xFFFF_FFFF
PLACE_DTYPE: Final = np.dtype([("offset", "<u8"), ("length", "<u4"), ("segment", "<u4")])
"""Where a line's result is. `segment` is twice the segment's number, plus one for a success; NOWHERE: it has none."""

assert PLACE_DTYPE.itemsize == 16

MissingLines = Callable[[Sequence[int]], list[bytes]]
"""The error lines (without newlines) for lines that have no result, in the order asked."""


@dataclass(frozen=True, slots=True)
class Composed:
    """The durable files of a batch; None for a file that would have no line."""

    output: StoredBlob | None
    error: StoredBlob | None
    counts: RequestCounts
    usage: TokenUsage


async def compose(
    segments: Sequence[tuple[Path, int | None]],
    total_lines: int,
    missing: MissingLines,
    blobs: Blobs,
    shard_nos: Sequence[int] | None = None,
    pace: Pace | None = None,
) -> Composed:
    """Compose on a thread (`missing` is called there too), at the `pace` of others who wait for it too.

    `segments` come with the bytes that count, the lowest generation of a shard first: a line's result is the first one
    found. With `shard_nos`, the shard of each of them, the sequence of the results is kept beside the first file.
    DiskFull and Damaged leave no file behind, and neither does cancelling.
    """
    stopped, pace = threading.Event(), pace or Pace()
    try:
        return await pace.run(_compose, segments, total_lines, missing, blobs, shard_nos, pace, stopped)
    except asyncio.CancelledError:
        stopped.set()
        raise


class _Stopped(Exception):
    """Nobody waits for the result any more."""


def _compose(
    segments: Sequence[tuple[Path, int | None]],
    total_lines: int,
    missing: MissingLines,
    blobs: Blobs,
    shard_nos: Sequence[int] | None,
    pace: Pace,
    stopped: threading.Event,
) -> Composed:
    places, taken, usage, reused = _places(segments, total_lines, pace, stopped)
    succeeded = (places["segment"] & 1 == 1) & (places["segment"] != NOWHERE)
    completed = int(np.count_nonzero(succeeded))
    writers: list[BlobWriter] = []
    stored: list[StoredBlob] = []
    try:
        with Copier([path for path, _ in segments]) as copier:
            for chosen in (succeeded, ~succeeded):
                if chosen.any():
                    writers.append(blobs.open_writer())
                    _copy(copier, places, chosen, missing, writers[-1], pace, stopped)
        if writers and shard_nos is not None:
            sequence = [Taken(shard_no, line_nos) for shard_no, line_nos in zip(shard_nos, taken, strict=True)]
            write_sequence(blobs.temp_index_path(writers[0].key), sequence, succeeded, places["length"])
        for writer in writers:
            writer.sync()
        stored.extend(writer.commit() for writer in writers)
    except BaseException:
        for writer in writers:
            writer.abort()
        raise
    return Composed(
        output=stored[0] if completed else None,
        error=stored[-1] if completed < total_lines else None,
        counts=RequestCounts(total_lines, completed, total_lines - completed, reused),
        usage=usage,
    )


def _places(
    segments: Sequence[tuple[Path, int | None]], total_lines: int, pace: Pace, stopped: threading.Event
) -> tuple[npt.NDArray[Any], list[npt.NDArray[Any]], TokenUsage, int]:
    """The place of every line's result, the lines that each segment gave results to in the order written, and of the
    results that count: their tokens, and how many are another line's answer."""
    places = np.zeros(total_lines, PLACE_DTYPE)
    places["segment"] = NOWHERE
    usage, reused = TokenUsage(), 0
    taken: list[npt.NDArray[Any]] = []
    for number, (path, valid_bytes) in enumerate(segments):
        pace.take(_bytes_of(path, valid_bytes) // SCANNED_BYTES_PER_COPIED)
        _check(stopped)
        found = scan(path, valid_bytes)
        if len(found.line_nos) == 0:
            taken.append(found.line_nos)
            continue
        if int(found.line_nos.max()) >= total_lines:
            raise Damaged(f"segment {path} has line {int(found.line_nos.max())}; the batch has {total_lines} lines")
        line_nos, first = np.unique(found.line_nos, return_index=True)
        new = places["segment"][line_nos] == NOWHERE
        line_nos, first = line_nos[new], first[new]
        taken.append(found.line_nos[np.sort(first)])
        places["offset"][line_nos] = found.offsets[first]
        places["length"][line_nos] = found.lengths[first]
        places["segment"][line_nos] = 2 * number + found.succeeded[first]
        usage += usage_of(found.usage[first])
        reused += int(np.count_nonzero(found.is_reused[first]))
    return places, taken, usage, reused


def _copy(
    copier: Copier,
    places: npt.NDArray[Any],
    chosen_lines: npt.NDArray[np.bool_],
    missing: MissingLines,
    writer: BlobWriter,
    pace: Pace,
    stopped: threading.Event,
) -> None:
    """Write the chosen lines, in order."""
    for window in windows_of(
        chosen_lines, places["length"], lambda: PACED_WINDOW_BYTES if pace.is_limited else WINDOW_BYTES
    ):
        pace.take(int(places["length"][window].sum(dtype=np.int64)))
        _check(stopped)
        chosen = places[window]
        lost = np.flatnonzero(chosen["segment"] == NOWHERE)
        made = missing(window[lost].tolist()) if len(lost) else []
        if len(made) != len(lost):
            raise ValueError(f"{len(lost)} lines have no result, and {len(made)} error lines were made for them")
        chosen["length"][lost] = [len(line) for line in made]
        places["length"][window[lost]] = chosen["length"][lost]
        writer.write(copier.gather(chosen["segment"] >> 1, chosen["offset"], chosen["length"], lost, made))


def _bytes_of(path: Path, valid_bytes: int | None) -> int:
    if valid_bytes is not None:
        return valid_bytes
    return path.stat().st_size if path.exists() else 0


def _check(stopped: threading.Event) -> None:
    if stopped.is_set():
        raise _Stopped
