"""A part of a segment: one append group, whole or not at all.

Format 1, little-endian: a header of 64 bytes, a table of 32 bytes for each line, and a payload of finished JSONL lines,
each with its newline. The checksum covers all of the part but itself. Every part carries its segment's nonce and its
number: no part of another file, and none out of place, fits in.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from store.records import Damaged, LineResult

MAGIC: Final = b"NBSEGM\x00\x01"
VERSION: Final = 1
HEADER: Final = struct.Struct("<8sIIIIQQQ16x")
CHECKSUM_AT: Final = 40
LINE_DTYPE: Final = np.dtype(
    [
        ("offset", "<u8"),  # within the payload
        ("line_no", "<u4"),
        ("length", "<u4"),  # without the newline that follows
        ("input_tokens", "<u4"),
        ("cached_tokens", "<u4"),
        ("output_tokens", "<u4"),
        ("succeeded", "u1"),
        ("reused", "u1"),
        ("padding", "V2"),
    ]
)
TOKENS_MAX: Final = 0xFFFF_FFFF
_READ_BYTES: Final = 1024 * 1024

assert HEADER.size == 64
assert LINE_DTYPE.itemsize == 32


class PartHeader(NamedTuple):
    magic: bytes
    version: int
    part_no: int
    lines: int
    flags: int
    payload_bytes: int
    nonce: int
    checksum: int

    @property
    def part_bytes(self) -> int:
        return HEADER.size + self.lines * LINE_DTYPE.itemsize + self.payload_bytes


def encode_part(results: Sequence[LineResult], part_no: int, nonce: int) -> bytes:
    table = np.zeros(len(results), LINE_DTYPE)
    lengths = np.array([len(result.line) for result in results], dtype=np.uint64)
    table["length"] = lengths
    table["offset"] = np.cumsum(lengths + np.uint64(1)) - (lengths + np.uint64(1))
    table["line_no"] = [result.line_no for result in results]
    table["succeeded"] = [result.succeeded for result in results]
    table["reused"] = [result.reused for result in results]
    for name in ("input_tokens", "cached_tokens", "output_tokens"):
        table[name] = [_counted(getattr(result.usage, name)) for result in results]
    payload = b"\n".join([result.line for result in results]) + b"\n"
    if payload.count(b"\n") != len(results):
        raise ValueError("a result line holds a newline: it would be two lines of the output file")
    body = table.tobytes() + payload
    blank = HEADER.pack(MAGIC, VERSION, part_no, len(results), 0, len(payload), nonce, 0)
    digest = xxhash.xxh3_64(blank)
    digest.update(body)
    return blank[:CHECKSUM_AT] + struct.pack("<Q", digest.intdigest()) + blank[CHECKSUM_AT + 8 :] + body


def _counted(tokens: int) -> int:
    """What the table can hold of a count: an upstream may report any number."""
    return min(max(tokens, 0), TOKENS_MAX)


def read_part(
    fd: int, position: int, limit: int, part_no: int, nonce: int | None
) -> tuple[PartHeader, npt.NDArray[Any]] | None:
    """The part at `position`, or None when there is no whole one."""
    header = _read_header(fd, position)
    if header is None or header.part_no != part_no or (nonce is not None and header.nonce != nonce):
        return None
    if position + header.part_bytes > limit:
        return None
    return _verified_part(fd, position, header)


def _read_header(fd: int, position: int) -> PartHeader | None:
    raw = os.pread(fd, HEADER.size, position)
    if len(raw) < HEADER.size:
        return None
    header = PartHeader(*HEADER.unpack(raw))
    return header if header.magic == MAGIC and header.version == VERSION and header.lines > 0 else None


def _verified_part(fd: int, position: int, header: PartHeader) -> tuple[PartHeader, npt.NDArray[Any]] | None:
    raw = os.pread(fd, HEADER.size, position)
    digest = xxhash.xxh3_64(raw[:CHECKSUM_AT] + bytes(8) + raw[CHECKSUM_AT + 8 :])
    table_bytes = header.lines * LINE_DTYPE.itemsize
    at = position + HEADER.size
    end = position + header.part_bytes
    kept = bytearray()
    while at < end:
        data = os.pread(fd, min(_READ_BYTES, end - at), at)
        if not data:
            return None
        digest.update(data)
        if len(kept) < table_bytes:
            kept += data[: table_bytes - len(kept)]
        at += len(data)
    if digest.intdigest() != header.checksum:
        return None
    return header, np.frombuffer(kept, LINE_DTYPE).copy()


def refuse_lost_parts(path: Path, fd: int, position: int, size: int, parts: int) -> None:
    """A whole part behind a broken one means damage, not a torn tail: parts are synced one by one, in order."""
    at = position
    overlap = len(MAGIC) - 1
    while at < size:
        window = os.pread(fd, _READ_BYTES + overlap, at)
        found = window.find(MAGIC)
        while found >= 0:
            header = _read_header(fd, at + found)
            if (
                header is not None
                and header.part_no > parts + 1
                and at + found + header.part_bytes <= size
                and _verified_part(fd, at + found, header) is not None
            ):
                raise Damaged(
                    f"segment {path} is broken at byte {position} (part {parts + 1}), "
                    f"but part {header.part_no} behind it is whole"
                )
            found = window.find(MAGIC, found + 1)
        at += _READ_BYTES
