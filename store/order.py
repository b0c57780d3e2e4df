"""The execution order of a batch: a permutation of its line numbers, read in ranges.

Format 1, little-endian: a header of 32 bytes, then blocks of 16,384 numbers of 4 bytes, each behind its own checksum of
8 bytes, so that a shard's range is verified without reading the rest.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import xxhash

from store.durable import disk_full, replace_file
from store.ranges import read_exactly
from store.records import Damaged, DiskFull

MAGIC: Final = b"NBORDER\x00"
VERSION: Final = 1
HEADER: Final = struct.Struct("<8sIIQQ")
"""magic, version, block_lines, lines, checksum of the fields before it"""

BLOCK_LINES: Final = 16_384
_CHECKSUM: Final = struct.Struct("<Q")
_BLOCK_BYTES: Final = _CHECKSUM.size + 4 * BLOCK_LINES


def write_order(path: Path, permutation: npt.NDArray[Any] | Sequence[int], *, lines: int | None = None) -> None:
    """Write the order so that it is there whole, or not at all. Blocking.

    ValueError when it is no permutation; with `lines`, of a part of the lines below it.
    """
    order = np.asarray(permutation, dtype="<u4")
    lines = len(order) if lines is None else lines
    seen = np.zeros(lines, dtype=np.bool_)
    seen[order[order < lines]] = True
    if np.count_nonzero(seen) != len(order):
        raise ValueError(f"not a permutation of the lines 0 to {lines - 1}, nor of a part of them")
    fields = HEADER.pack(MAGIC, VERSION, BLOCK_LINES, len(order), 0)[: -_CHECKSUM.size]
    data = bytearray(fields + _CHECKSUM.pack(xxhash.xxh3_64_intdigest(fields)))
    for start in range(0, len(order), BLOCK_LINES):
        block = order[start : start + BLOCK_LINES].tobytes()
        data += _CHECKSUM.pack(_block_checksum(start, block)) + block
    try:
        replace_file(path, data)
    except OSError as error:
        if disk_full(error):
            raise DiskFull(f"no room for the execution order: {error.strerror}", path) from error
        raise


def read_order(path: Path, start: int = 0, stop: int | None = None) -> list[int]:
    """The line numbers at positions `start` to `stop` (exclusive; None: the end). Blocking. Damaged names the block."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise Damaged(f"execution order {path} is missing") from error
    try:
        lines = _lines_of(fd, path)
        stop = lines if stop is None else stop
        if not 0 <= start <= stop <= lines:
            raise Damaged(f"execution order {path} has {lines} lines; positions {start} to {stop} were asked for")
        found: list[int] = []
        for block_no in range(start // BLOCK_LINES, -(-stop // BLOCK_LINES)):
            first = block_no * BLOCK_LINES
            block = _block(fd, path, first, min(BLOCK_LINES, lines - first))
            found += block[max(start - first, 0) : stop - first].tolist()
        return found
    finally:
        os.close(fd)


def _lines_of(fd: int, path: Path) -> int:
    raw = read_exactly(fd, HEADER.size, 0, path)
    magic, version, block_lines, lines, checksum = HEADER.unpack(raw)
    if magic != MAGIC or xxhash.xxh3_64_intdigest(raw[: -_CHECKSUM.size]) != checksum:
        raise Damaged(f"execution order {path} has a broken header")
    if version != VERSION or block_lines != BLOCK_LINES:
        raise Damaged(f"execution order {path} has format {version}; this version reads {VERSION}")
    return int(lines)


def _block(fd: int, path: Path, first: int, lines: int) -> npt.NDArray[np.uint32]:
    at = HEADER.size + first // BLOCK_LINES * _BLOCK_BYTES
    raw = read_exactly(fd, _CHECKSUM.size + 4 * lines, at, path)
    (checksum,) = _CHECKSUM.unpack_from(raw)
    if _block_checksum(first, raw[_CHECKSUM.size :]) != checksum:
        raise Damaged(f"execution order {path} fails its checksum in the block at byte {at}")
    return np.frombuffer(raw, "<u4", offset=_CHECKSUM.size)


def _block_checksum(first: int, block: bytes) -> int:
    """The block's place is part of it: blocks that changed places are damage too."""
    return xxhash.xxh3_64_intdigest(block, seed=first)
