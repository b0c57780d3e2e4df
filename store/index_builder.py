"""Building a line index from a file that may still be growing.

Reads whole blocks, splits them into lines, looks into each line once, and writes records as it goes: what stays in
memory is one block, the tail of the line that is not whole yet, and 8 bytes a line to find duplicates at the end.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

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
from store.line_blocks import Block, LineBlocks, Overlong
from store.line_shapes import NO_LADDER, U32_MAX, LineFacts
from store.lines import LINE_ERROR_CODES, check_line, common_shape, parse_line
from store.ranges import read_exactly
from store.records import InputSummary, LineError

READ_BYTES: Final = 256 * 1024
NAMES_MAX: Final = 1000
"""Distinct model names, and urls, in one file."""

_NO_ID: Final = bytes(8)
_ERROR_PLACE: Final = {code: place for place, code in enumerate(LINE_ERROR_CODES)}


@dataclass(frozen=True, slots=True)
class IndexLimits:
    line_bytes_max: int
    lines_max: int
    line_errors_shown_max: int


class IndexBuilder:
    """One file on its way to an index. `feed` as the file grows, then `finish`; blocking, one thread."""

    def __init__(
        self, blob_path: Path, index_path: Path, secret: bytes, limits: IndexLimits, *, read_bytes: int = READ_BYTES
    ) -> None:
        self._blob_path = blob_path
        self._index_path = index_path
        self._limits = limits
        self._read_bytes = read_bytes
        self._keyed = hashlib.blake2b(key=secret, digest_size=8)
        self._blob_fd = os.open(blob_path, os.O_RDONLY | os.O_CLOEXEC)
        self._index_fd = os.open(index_path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._blocks = LineBlocks(limits.line_bytes_max)
        self._read_to = 0
        self._line = 0
        self._lines = 0
        self._error_lines = 0
        self._hashes = bytearray()
        self._models: dict[str, int] = {}
        self._urls: dict[str, int] = {}
        self._sub_requests = 0
        self._prompt_bytes = 0

    def feed(self, size: int) -> None:
        """Index what can be of the first `size` bytes of the file."""
        while self._read_to < size and not self._too_many:
            wanted = min(self._read_bytes, size - self._read_to)
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
            models=tuple(self._models),
            urls=tuple(self._urls),
            sub_requests=self._sub_requests,
            prompt_bytes=self._prompt_bytes,
            errors=self._errors_shown(),
        )

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
            if isinstance(piece, Block):
                self._add_block(piece)
            else:
                self._line += 1
                code = "line_too_long" if self._lines < self._limits.lines_max else "too_many_requests"
                self._write_records([_error_record(code, self._line, piece.offset, piece.length)])

    def _add_block(self, block: Block) -> None:
        """The hot loop: a few microseconds for each line, hence the local names and the few calls."""
        models, urls, keyed_hash, pack = self._models, self._urls, self._keyed.copy, RECORD.pack
        line_bytes_max = self._limits.line_bytes_max
        room = self._limits.lines_max - self._lines
        records: list[bytes] = []
        next_offset = block.offset
        for line, raw in enumerate(block.lines, self._line + 1):
            offset = next_offset
            length = len(raw)
            next_offset += length + 1
            if raw[-1:] == b"\r":
                length -= 1
            if len(records) == room or length > line_bytes_max or not (block.is_ascii or _is_utf8(raw)):
                facts = None
            else:
                facts = common_shape(raw)
            if facts is None:
                record = self._odd_record(raw[:length], line, offset, is_full=len(records) == room)
                if record is not None:
                    records.append(record)
                if len(records) > room:
                    break
                continue
            model, url = models.get(facts.model), urls.get(facts.url)
            if model is None or url is None:
                records.append(self._record(facts, line, offset, length))
                continue
            keyed = keyed_hash()
            keyed.update(facts.custom_id.encode())
            records.append(
                pack(
                    offset,
                    keyed.digest(),
                    facts.ladder,
                    length,
                    line,
                    facts.prompt_bytes,
                    facts.output_tokens,
                    facts.sub_requests,
                    url,
                    model,
                    0,
                )
            )
        self._line += len(block.lines)
        self._write_records(records)

    def _odd_record(self, raw: bytes, line: int, offset: int, *, is_full: bool) -> bytes | None:
        """The record of a line that has no common shape; None for a blank one."""
        if not raw or raw.isspace():
            return None
        if is_full:
            return _error_record("too_many_requests", line, offset, len(raw))
        if len(raw) > self._limits.line_bytes_max:
            return _error_record("line_too_long", line, offset, len(raw))
        found = check_line(raw, line=line)
        if isinstance(found, LineError):
            return _error_record(found.code, line, offset, len(raw))
        return self._record(found, line, offset, len(raw))

    def _record(self, facts: LineFacts, line: int, offset: int, length: int) -> bytes:
        model, url = _place(self._models, facts.model), _place(self._urls, facts.url)
        if model is None or url is None:
            return _error_record("invalid_request", line, offset, length)
        keyed = self._keyed.copy()
        keyed.update(facts.custom_id.encode())
        limits = (facts.prompt_bytes, facts.output_tokens, facts.sub_requests)
        return RECORD.pack(offset, keyed.digest(), facts.ladder, length, line, *limits, url, model, 0)

    def _write_records(self, records: Sequence[bytes]) -> None:
        data = b"".join(records)
        table = np.frombuffer(data, RECORD_DTYPE)
        self._hashes += table["custom_id"].tobytes()
        self._sub_requests += int(table["sub_requests"].sum(dtype=np.uint64))
        self._prompt_bytes += int(table["prompt_bytes"].sum(dtype=np.uint64))
        self._error_lines += int(np.count_nonzero(table["error"]))
        write_all(self._index_fd, data, HEADER.size + self._lines * RECORD.size)
        self._lines += len(records)

    def _custom_id_of(self, line_no: int) -> str:
        record = os.pread(self._index_fd, RECORD.size, HEADER.size + line_no * RECORD.size)
        offset, _, _, length, *_ = RECORD.unpack(record)
        return parse_line(read_exactly(self._blob_fd, length, offset, self._blob_path)).custom_id

    def _mark_duplicate(self, line_no: int) -> None:
        place = struct.pack("<H", _ERROR_PLACE["duplicate_custom_id"])
        write_all(self._index_fd, place, HEADER.size + line_no * RECORD.size + ERROR_AT)
        self._error_lines += 1

    def _seal(self, blob_bytes: int) -> None:
        """Write the tables, then the header with the checksum over everything, and make it all durable."""
        tables = msgspec.json.encode(Tables(tuple(self._models), tuple(self._urls)))
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


def _error_record(code: str, line: int, offset: int, length: int) -> bytes:
    return RECORD.pack(offset, _NO_ID, NO_LADDER, min(length, U32_MAX), line, 0, 0, 0, 0, 0, _ERROR_PLACE[code])


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _place(names: dict[str, int], name: str) -> int | None:
    """The name's place in the table, made if need be; None when the table is full."""
    place = names.get(name)
    if place is None and len(names) < NAMES_MAX:
        place = names[name] = len(names)
    return place
