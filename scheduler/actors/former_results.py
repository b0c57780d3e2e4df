"""The quality of what former holders of a shard recorded, read when it is taken over: a batch that was interrupted need
not be read again as a whole at its end."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from scheduler.actors.inputs import BatchInput
from store.asked import AskedReader
from store.quality import Quality, quality_of
from store.ranges import read_ranges
from store.segments import Scan

LINES_AT_ONCE = 256

log = logging.getLogger(__name__)

Row = tuple[int, bool, bytes, bytes | None]


def former_quality(found: Iterable[tuple[Path, Scan]], source: BatchInput) -> Quality | None:
    """Of all results in these segments. Blocking. None where they cannot be read: then the finalizer looks at all."""
    total, asked = Quality(), AskedReader()
    try:
        for path, scanned in found:
            rows = _rows(path, scanned, source)
            while group := list(islice(rows, LINES_AT_ONCE)):
                total.merge(quality_of(group, asked))
    except Exception:  # whatever it is, it must not keep the shard's other lines from running
        log.exception("the quality of a shard's former results could not be read")
        return None
    return total


def _rows(path: Path, scanned: Scan, source: BatchInput) -> Iterator[Row]:
    if not len(scanned.line_nos):
        return
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for start in range(0, len(scanned.line_nos), LINES_AT_ONCE):
            part = slice(start, start + LINES_AT_ONCE)
            line_nos, succeeded = scanned.line_nos[part].tolist(), scanned.succeeded[part].tolist()
            raws = read_ranges(fd, scanned.offsets[part].tolist(), scanned.lengths[part].tolist(), path)
            bodies: Iterator[bytes | None] = (line.body for line in source.requests(line_nos))
            yield from zip(line_nos, succeeded, raws, bodies, strict=True)
    finally:
        os.close(fd)
