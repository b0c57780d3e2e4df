"""A segment: the results of one shard and one lease generation, as numbered parts that never change.

A part counts whole or not at all (`segment_parts`), and a tail torn by a crash never counts.
Only the generation's holder writes here and nobody truncates (the fence): after a failed write the next part is written
over the remains of the failed one.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from store.durable import disk_full, make_folder, sync_folder, write_all
from store.markers import reach
from store.records import Damaged, DiskFull, LineResult, StoreError, TokenUsage
from store.segment_parts import LINE_DTYPE, encode_part, read_part, refuse_lost_parts


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """What a segment holds: one row a line, in the order written. `offsets` are in the file; the byte after each line
    is its newline. `usage` has a row (input, cached, output tokens) for each line."""

    valid_bytes: int
    parts: int
    line_nos: npt.NDArray[np.uint32]
    succeeded: npt.NDArray[np.bool_]
    offsets: npt.NDArray[np.uint64]
    lengths: npt.NDArray[np.uint32]
    usage: npt.NDArray[np.uint32]
    is_reused: npt.NDArray[np.bool_]

    @property
    def completed(self) -> int:
        return int(np.count_nonzero(self.succeeded))

    @property
    def failed(self) -> int:
        return len(self.line_nos) - self.completed

    @property
    def reused(self) -> int:
        return int(np.count_nonzero(self.is_reused))

    @property
    def usage_total(self) -> TokenUsage:
        return usage_of(self.usage)


def usage_of(rows: npt.NDArray[np.uint32]) -> TokenUsage:
    sums = rows.sum(axis=0, dtype=np.uint64)
    return TokenUsage(int(sums[0]), int(sums[1]), int(sums[2]))


class SegmentWriter:
    """Appends parts to one new segment. Blocking: call it on a thread."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        self._nonce = secrets.randbits(64)
        self._parts = 0
        self._valid_bytes = 0
        self._unsure = False

    @classmethod
    def create(cls, path: Path) -> SegmentWriter:
        """A new segment; FileExistsError when this generation already has one (it has another writer)."""
        fd = -1
        try:
            make_folder(path.parent)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            sync_folder(path.parent)
        except OSError as error:
            if fd >= 0:  # it is ours, and empty: the same generation may try again
                os.close(fd)
                path.unlink()
            if disk_full(error):
                raise DiskFull(f"no room for a new segment: {error.strerror}", path) from error
            raise
        return cls(path, fd)

    @property
    def valid_bytes(self) -> int:
        return self._valid_bytes

    def append(self, results: Sequence[LineResult]) -> int:
        """Write one part and make it durable; the bytes of the segment that count now.

        DiskFull leaves the segment as it was: the same results may be appended again later. After a failed fsync
        nothing is known of what reached the disk, so the writer refuses to go on: take a new lease.
        """
        if self._unsure:
            raise StoreError(f"segment {self.path} could not be made durable; take a new lease and write another")
        if not results:
            return self._valid_bytes
        part = encode_part(results, self._parts + 1, self._nonce)
        try:
            write_all(self._fd, part, self._valid_bytes)
        except OSError as error:
            if disk_full(error):
                raise DiskFull(f"no room for {len(part):,} bytes of results: {error.strerror}", self.path) from error
            raise
        reach("append.written")
        try:
            os.fsync(self._fd)
        except OSError as error:
            self._unsure = True
            if disk_full(error):
                raise DiskFull(f"results were not made durable: {error.strerror}", self.path) from error
            raise
        self._parts += 1
        self._valid_bytes += len(part)
        reach("append.synced")
        return self._valid_bytes

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def scan(path: Path, valid_bytes: int | None = None) -> Scan:
    """Read and checksum a segment. Blocking: call it on a thread.

    With `valid_bytes` exactly that many bytes count, and anything wrong inside them is Damaged. With None all whole
    parts count up to the first torn one; what is found is synced first, so that a length read here may be recorded as
    durable. A segment that was never created holds nothing.
    """
    if valid_bytes == 0:
        return _scan_of([], 0, 0)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        if valid_bytes is None:
            return _scan_of([], 0, 0)
        raise Damaged(f"segment {path} is missing; {valid_bytes} bytes of it count") from None
    try:
        if valid_bytes is None:
            os.fsync(fd)
        return _scan(path, fd, valid_bytes)
    finally:
        os.close(fd)


def _scan(path: Path, fd: int, valid_bytes: int | None) -> Scan:
    size = os.fstat(fd).st_size
    if valid_bytes is not None and size < valid_bytes:
        raise Damaged(f"segment {path} has {size} bytes; {valid_bytes} of it count")
    limit = size if valid_bytes is None else valid_bytes
    tables: list[npt.NDArray[Any]] = []
    position = 0
    nonce: int | None = None
    while position < limit:
        found = read_part(fd, position, limit, len(tables) + 1, nonce)
        if found is None:
            break
        header, table = found
        table["offset"] += position + header.part_bytes - header.payload_bytes
        tables.append(table)
        nonce = header.nonce
        position += header.part_bytes
    if position < limit:
        if valid_bytes is not None:
            raise Damaged(f"segment {path} fails its checksum in part {len(tables) + 1}, at byte {position}")
        refuse_lost_parts(path, fd, position, size, len(tables))
    return _scan_of(tables, position, len(tables))


def _scan_of(tables: list[npt.NDArray[Any]], valid_bytes: int, parts: int) -> Scan:
    table = np.concatenate(tables) if tables else np.zeros(0, LINE_DTYPE)
    usage = np.stack([table["input_tokens"], table["cached_tokens"], table["output_tokens"]], axis=1)
    return Scan(
        valid_bytes=valid_bytes,
        parts=parts,
        line_nos=table["line_no"].copy(),
        succeeded=table["succeeded"] == 1,
        offsets=table["offset"].copy(),
        lengths=table["length"].copy(),
        usage=usage,
        is_reused=table["reused"] == 1,
    )
