"""Building a line index from a file that may still be growing.

Reads block by block, looks into each line once, and writes records as it goes: what stays in memory is one block, the
tail of the line that is not whole yet, and 8 bytes a line to find duplicates at the end.
"""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from store.common_lines import common_lines
from store.duplicates import duplicates
from store.durable import write_all
from store.index import (
    CHECKSUM_AT,
    ERROR_AT,
    HEADER,
    MAGIC,
    RECORD,
    RECORD_DTYPE,
    VERSION,
    LineIndex,
    Tables,
    checksum_of,
)
from store.index_records import ERROR_PLACE, Records, error_record
from store.line_blocks import Block, LineBlocks, Overlong
from store.lines import check_line, parse_line
from store.ranges import read_exactly
from store.records import InputSummary, LineError

READ_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class IndexLimits:
    line_bytes_max: int
    lines_max: int
    line_errors_shown_max: int


class IndexBuilder:
    """One file on its way to an index. `feed` as the file grows, then `finish`; blocking, one thread."""

    def __init__(
        self,
        blob_path: Path,
        index_path: Path,
        secret: bytes,
        limits: IndexLimits,
        *,
        read_bytes: int = READ_BYTES,
        before_bytes: Callable[[int], None] | None = None,
    ) -> None:
        """`before_bytes` is called before so many bytes of the file are worked on: it may take its time."""
        self._blob_path = blob_path
        self._index_path = index_path
        self._limits = limits
        self._read_bytes = read_bytes
        self._before_bytes = before_bytes
        self._records = Records(secret)
        self._blob_fd = os.open(blob_path, os.O_RDONLY | os.O_CLOEXEC)
        self._index_fd = os.open(index_path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._blocks = LineBlocks(limits.line_bytes_max)
        self._read_to = 0
        self._line = 0
        self._lines = 0
        self._error_lines = 0
        self._hashes = bytearray()
        self._sub_requests = 0
        self._prompt_bytes = 0

    def feed(self, size: int) -> None:
        """Index what can be of the first `size` bytes of the file."""
        while self._read_to < size and not self._too_many:
            wanted = min(self._read_bytes, size - self._read_to)
            if self._before_bytes is not None:
                self._before_bytes(wanted)
            chunk = read_exactly(self._blob_fd, wanted, self._read_to, self._blob_path)
            self._read_to += len(chunk)
            self._add(self._blocks.take(chunk))

    def finish(self, size: int) -> InputSummary:
        """The file has `size` bytes and is complete: make the index durable and say what it holds."""
        self.feed(size)
        self._add(self._blocks.end())
        for line_no in duplicates(self._hashes, self._custom_id_of):
            self._mark_duplicate(line_no)
        self._seal(size)
        return InputSummary(
            lines=self._lines,
            error_lines=self._error_lines,
            models=tuple(self._records.models),
            urls=tuple(self._records.urls),
            sub_requests=self._sub_requests,
            prompt_bytes=self._prompt_bytes,
            errors=self._errors_shown(),
        )

    def discard(self) -> None:
        """Close, and take the unfinished index away: who gave up the upload may have looked before it was there."""
        self.close()
        self._index_path.unlink(missing_ok=True)

    def close(self) -> None:
        if self._blob_fd >= 0:
            os.close(self._blob_fd)
            os.close(self._index_fd)
            self._blob_fd = self._index_fd = -1

    @property
    def _too_many(self) -> bool:
        return self._lines > self._limits.lines_max

    def _add(self, pieces: Iterable[Block | Overlong]) -> None:
        for piece in pieces:
            if self._too_many:
                return
            if isinstance(piece, Overlong):
                self._line += 1
                code = "line_too_long" if self._lines < self._limits.lines_max else "too_many_requests"
                self._write(_table([error_record(code, self._line, piece.offset, piece.length)]))
                continue
            table = self._common_table(piece)
            if table is None:
                self._add_one_by_one(piece)
            else:
                self._line += len(table)
                self._write(table)

    def _common_table(self, block: Block) -> npt.NDArray[Any] | None:
        """The records of a block of nothing but common lines: a microsecond or two for each line."""
        lines = common_lines(block)
        if lines is None:
            return None
        room = self._limits.lines_max - self._lines
        if len(lines.offsets) > room or lines.lengths.max() > self._limits.line_bytes_max:
            return None
        return self._records.of_block(lines, self._line + 1)

    def _add_one_by_one(self, block: Block) -> None:
        room = self._limits.lines_max - self._lines
        records: list[bytes] = []
        next_offset = block.offset
        for whole in block.lines:
            self._line += 1
            offset = next_offset
            next_offset += len(whole) + 1
            raw = whole.removesuffix(b"\r")
            if not raw or raw.isspace():
                continue
            if len(records) == room:
                records.append(error_record("too_many_requests", self._line, offset, len(raw)))
                break
            records.append(self._record(raw, offset))
        self._write(_table(records))

    def _record(self, raw: bytes, offset: int) -> bytes:
        if len(raw) > self._limits.line_bytes_max:
            return error_record("line_too_long", self._line, offset, len(raw))
        found = check_line(raw, line=self._line)
        if isinstance(found, LineError):
            return error_record(found.code, self._line, offset, len(raw))
        return self._records.of_line(found, self._line, offset, len(raw))

    def _write(self, table: npt.NDArray[Any]) -> None:
        self._hashes += table["custom_id"].tobytes()
        self._sub_requests += int(table["sub_requests"].sum(dtype=np.uint64))
        self._prompt_bytes += int(table["prompt_bytes"].sum(dtype=np.uint64))
        self._error_lines += int(np.count_nonzero(table["error"]))
        write_all(self._index_fd, table.tobytes(), HEADER.size + self._lines * RECORD.size)
        self._lines += len(table)

    def _custom_id_of(self, line_no: int) -> str:
        record = os.pread(self._index_fd, RECORD.size, HEADER.size + line_no * RECORD.size)
        offset, _, _, length, *_ = RECORD.unpack(record)
        return parse_line(read_exactly(self._blob_fd, length, offset, self._blob_path)).custom_id

    def _mark_duplicate(self, line_no: int) -> None:
        place = struct.pack("<H", ERROR_PLACE["duplicate_custom_id"])
        write_all(self._index_fd, place, HEADER.size + line_no * RECORD.size + ERROR_AT)
        self._error_lines += 1

    def _seal(self, blob_bytes: int) -> None:
        """Write the tables, then the header with the checksum over everything, and make it all durable."""
        tables = msgspec.json.encode(Tables(tuple(self._records.models), tuple(self._records.urls)))
        tables_at = HEADER.size + self._lines * RECORD.size
        write_all(self._index_fd, tables, tables_at)
        counts = (self._lines, blob_bytes, len(tables), self._error_lines, self._sub_requests, self._prompt_bytes)
        limits = (self._limits.line_bytes_max, self._limits.lines_max)
        header = bytearray(HEADER.pack(MAGIC, VERSION, HEADER.size, 0, *counts, *limits))
        checksum = checksum_of(self._index_fd, bytes(header), tables_at + len(tables))
        struct.pack_into("<Q", header, CHECKSUM_AT, checksum)
        write_all(self._index_fd, header, 0)
        os.fsync(self._index_fd)

    def _errors_shown(self) -> tuple[LineError, ...]:
        if self._error_lines == 0:
            return ()
        errors = LineIndex.open(self._index_path).iter_errors(self._blob_path)
        return tuple(itertools.islice(errors, self._limits.line_errors_shown_max))


def _table(records: Sequence[bytes]) -> npt.NDArray[Any]:
    return np.frombuffer(b"".join(records), RECORD_DTYPE)
