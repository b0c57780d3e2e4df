"""What becomes of lines that validation found wrong: error lines of their own, or one file with all of them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby, islice
from pathlib import Path

import msgspec
import numpy as np

from scheduler.actors.inputs import BatchInput
from scheduler.facts import result_lines
from scheduler.policy.validation import Problems
from store.blobs import Blobs, StoredBlob
from store.pacing import Pace
from store.records import LineError, LineResult, TokenUsage
from store.segments import SegmentWriter

LINES_AT_ONCE = 1024
CUSTOM_ID_LINE_BYTES_MAX = 1024 * 1024
"""A broken line longer than this is not read again for its custom_id."""


class _Named(msgspec.Struct):
    custom_id: str


_decoder = msgspec.json.Decoder(_Named)


def write_error_file(batch_id: str, source: BatchInput, problems: Problems, blobs: Blobs, pace: Pace) -> StoredBlob:
    """Every error of the file, a line each, at constant memory. Blocking; DiskFull leaves nothing behind."""
    writer = blobs.open_writer()
    try:
        errors = problems.errors()
        while group := list(islice(errors, LINES_AT_ONCE)):
            lines = b"".join(line + b"\n" for line in _lines(batch_id, source, group))
            pace.take(len(lines))
            writer.write(lines)
        return writer.commit()
    except BaseException:
        writer.abort()
        raise


def write_results(path: Path, batch_id: str, source: BatchInput, problems: Problems, pace: Pace) -> int:
    """A segment at `path` with one result for each broken line, its first error; how many. Blocking.

    What an earlier try left there is replaced: nothing reads it before the batch is admitted.
    """
    path.unlink(missing_ok=True)
    firsts = (next(group) for _, group in groupby(problems.errors(), key=lambda error: error.line))
    line_nos = np.flatnonzero(problems.broken)
    writer = SegmentWriter.create(path)
    try:
        for start in range(0, len(line_nos), LINES_AT_ONCE):
            chosen = line_nos[start : start + LINES_AT_ONCE].tolist()
            lines = list(_lines(batch_id, source, list(islice(firsts, len(chosen)))))
            pace.take(sum(map(len, lines)))
            writer.append(
                [LineResult(line_no, False, line, TokenUsage()) for line_no, line in zip(chosen, lines, strict=True)]
            )
    finally:
        writer.close()
    return len(line_nos)


def _lines(batch_id: str, source: BatchInput, errors: list[LineError]) -> Iterator[bytes]:
    """Result lines for some errors, in their order. Two errors of one line have one id."""
    records = source.index.records
    numbers = np.searchsorted(records["line"], [error.line or 0 for error in errors])
    short = records["length"][numbers] <= CUSTOM_ID_LINE_BYTES_MAX
    raws = iter(source.index.read_lines(source.blob_path, numbers[short].tolist()))
    for line_no, is_short, error in zip(numbers.tolist(), short.tolist(), errors, strict=True):
        custom_id = custom_id_of(next(raws)) if is_short else ""
        yield result_lines.invalid_line(batch_id, line_no, custom_id, error)


def custom_id_of(raw: bytes) -> str:
    """What can be read of a broken line's custom_id; empty where nothing can, since clients expect a string there."""
    try:
        return _decoder.decode(raw).custom_id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
