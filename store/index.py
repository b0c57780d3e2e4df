"""The line index beside a batch input file: one fixed record a line, memory-mapped.

Format 1, little-endian: a header of 128 bytes, a record of 80 bytes for each line, then a JSON table of the model names
and urls that records point into. The checksum covers all of it but itself. `index_builder` writes it.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from store.lines import LINE_ERROR_CODES, LineFacts, check_line, parse_line
from store.ranges import read_exactly, read_ranges
from store.records import Damaged, LineError

INDEX_SUFFIX: Final = ".index"
MAGIC: Final = b"NBLINES\x00"
VERSION: Final = 1
HEADER: Final = struct.Struct("<8sIIQQQQQQQQQ40x")
CHECKSUM_AT: Final = 16
RECORD: Final = struct.Struct("<Q8s32sIIIIIHHH6x")
"""offset, custom_id, ladder, length, line, prompt_bytes, output_tokens, sub_requests, url, model, error"""

RECORD_DTYPE: Final = np.dtype(
    [
        ("offset", "<u8"),
        ("custom_id", "<u8"),
        ("ladder", "<u8", (4,)),
        ("length", "<u4"),
        ("line", "<u4"),
        ("prompt_bytes", "<u4"),
        ("output_tokens", "<u4"),
        ("sub_requests", "<u4"),
        ("url", "<u2"),
        ("model", "<u2"),
        ("error", "<u2"),
        ("padding", "V6"),
    ]
)
ERROR_AT: Final = 72
"""Where `error` stands in a record."""

_CHECKSUM_READ_BYTES: Final = 4 * 1024 * 1024
_ROWS_AT_ONCE: Final = 65_536
_ERRORS_AT_ONCE: Final = 1000
"""Errors whose words are made together: one look through the index for the first lines of their duplicates."""

assert RECORD.size == RECORD_DTYPE.itemsize == 80
assert HEADER.size == 128


class Header(NamedTuple):
    magic: bytes
    version: int
    header_bytes: int
    checksum: int
    lines: int
    blob_bytes: int
    tables_bytes: int
    error_lines: int
    sub_requests: int
    prompt_bytes: int
    line_bytes_max: int
    lines_max: int


class Tables(msgspec.Struct, frozen=True):
    models: tuple[str, ...]
    urls: tuple[str, ...]


def checksum_of(fd: int, header: bytes, size: int) -> int:
    """The checksum of an index: its header with the checksum itself as zeros, then all that follows."""
    digest = xxhash.xxh3_64(header[:CHECKSUM_AT] + bytes(8) + header[CHECKSUM_AT + 8 :])
    position = len(header)
    while position < size:
        data = os.pread(fd, min(_CHECKSUM_READ_BYTES, size - position), position)
        if not data:
            break
        digest.update(data)
        position += len(data)
    return digest.intdigest()


@dataclass(frozen=True, slots=True, eq=False)
class LineIndex:
    """An open index. `records` is a structured array (RECORD_DTYPE) on the mapped file, by line_no (from 0, blank lines
    left out): `models[record["model"]]` is the name as the client wrote it, `line` the 1-based number in the file and
    `error` a place in LINE_ERROR_CODES (0: well-formed; the facts of a broken line are zeros).

    The mapping goes when the last array over it does. Opening reads the whole file once: not on an event loop.
    """

    path: Path
    header: Header
    models: tuple[str, ...]
    urls: tuple[str, ...]
    records: npt.NDArray[Any]
    mapped: mmap.mmap | None

    @classmethod
    def open(cls, path: Path) -> LineIndex:
        """Map the index at `path`, verified. Damaged says which file and what is wrong with it."""
        try:
            with path.open("rb") as file:
                header, tables = _verified(path, file.fileno())
                mapped = None
                records = np.zeros(0, RECORD_DTYPE)
                if header.lines > 0:
                    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                    records = np.frombuffer(mapped, RECORD_DTYPE, count=header.lines, offset=HEADER.size)
        except FileNotFoundError as error:
            raise Damaged(f"line index {path} is missing") from error
        return cls(path, header, tables.models, tables.urls, records, mapped)

    @property
    def count(self) -> int:
        return self.header.lines

    @property
    def error_lines(self) -> int:
        return self.header.error_lines

    @property
    def blob_path(self) -> Path:
        """The file that this is an index of, by the store's naming."""
        return self.path.with_name(self.path.name.removesuffix(INDEX_SUFFIX))

    def read_lines(self, blob_path: Path, line_nos: Sequence[int]) -> list[bytes]:
        """The bytes of the lines, in the order asked for, without their line endings. Neighbours are read together."""
        chosen = self.records[np.asarray(line_nos, dtype=np.int64)]
        with self._open_blob(blob_path) as file:
            return read_ranges(file.fileno(), chosen["offset"].tolist(), chosen["length"].tolist(), blob_path)

    def iter_errors(
        self, blob_path: Path | None = None, line_nos: npt.NDArray[np.int64] | None = None
    ) -> Iterator[LineError]:
        """Every form error in line order, its words made again from the line itself; or only those of some broken
        lines."""
        broken = np.flatnonzero(self.records["error"]) if line_nos is None else line_nos
        if len(broken) == 0:
            return
        with self._open_blob(blob_path or self.blob_path) as file:
            for start in range(0, len(broken), _ERRORS_AT_ONCE):
                line_nos = broken[start : start + _ERRORS_AT_ONCE]
                firsts = self._firsts(line_nos)
                for line_no in line_nos.tolist():
                    yield self._error_of(file.fileno(), line_no, firsts)

    def column(self, name: str, place: int | None = None) -> npt.NDArray[Any]:
        """A field of all lines as an array of its own, or the one at `place` where a line has several of it. Reading it
        leaves next to nothing of the mapping in memory."""
        field = self.records[name] if place is None else self.records[name][:, place]
        found: npt.NDArray[Any] = np.empty(field.shape, field.dtype)
        for start in range(0, self.count, _ROWS_AT_ONCE):
            found[start : start + _ROWS_AT_ONCE] = field[start : start + _ROWS_AT_ONCE]
            self.release_memory()
        return found

    def release_memory(self) -> None:
        """Give back the pages read so far (they count as this process's memory); later reads fetch them again."""
        if self.mapped is not None:
            self.mapped.madvise(mmap.MADV_DONTNEED)

    def _open_blob(self, blob_path: Path) -> BinaryIO:
        try:
            file = blob_path.open("rb")
        except FileNotFoundError as error:
            raise Damaged(f"the bytes of input file {blob_path} are missing") from error
        size = os.fstat(file.fileno()).st_size
        if size != self.header.blob_bytes:
            file.close()
            raise Damaged(f"input file {blob_path} has {size} bytes; its index was made for {self.header.blob_bytes}")
        return file

    def _firsts(self, line_nos: npt.NDArray[np.int64]) -> dict[int, list[int]]:
        """For the duplicates among the lines: the well-formed lines with the same hash of their custom_id."""
        records = self.records
        repeated = line_nos[records["error"][line_nos] == LINE_ERROR_CODES.index("duplicate_custom_id")]
        firsts: dict[int, list[int]] = {}
        if len(repeated):
            hashes = np.unique(records["custom_id"][repeated])
            places = np.minimum(np.searchsorted(hashes, records["custom_id"]), len(hashes) - 1)
            alike = np.flatnonzero((hashes[places] == records["custom_id"]) & (records["error"] == 0))
            for line_no in alike.tolist():
                firsts.setdefault(int(records["custom_id"][line_no]), []).append(line_no)
        return firsts

    def _error_of(self, fd: int, line_no: int, firsts: dict[int, list[int]]) -> LineError:
        record = self.records[line_no]
        code, line, length = LINE_ERROR_CODES[record["error"]], int(record["line"]), int(record["length"])
        if code == "line_too_long":
            limit = self.header.line_bytes_max
            message = f"This line has {length:,} bytes; at most {limit:,} are allowed (line_mib_max in [store])."
            return LineError(code, message, line=line)
        if code == "too_many_requests":
            limit = self.header.lines_max
            message = f"The file has more than {limit:,} requests (lines_max in [store])."
            return LineError(code, message, line=line)
        if code == "duplicate_custom_id":
            first = self._first_like(fd, line_no, firsts[int(record["custom_id"])])
            message = f"The custom_id of this line was already used on line {first}."
            return LineError(code, message, param="custom_id", line=line)
        found = check_line(self._raw(fd, line_no), line=line)
        return self._of_whole_line(code, line) if isinstance(found, LineFacts) else found

    def _of_whole_line(self, code: str, line: int) -> LineError:
        """Nothing is wrong with the line here: the worker nests less deeply, or met a limit of the whole file."""
        if code == "invalid_json_line":
            return LineError(code, "This line is nested too deeply to be parsed.", line=line)
        names = max(len(self.models), len(self.urls))
        message = f"The lines before this one name {names:,} different models or urls, the most that a file may name."
        return LineError(code, message, line=line)

    def _first_like(self, fd: int, line_no: int, alike: Sequence[int]) -> int:
        custom_id = parse_line(self._raw(fd, line_no)).custom_id
        first = next(other for other in alike if parse_line(self._raw(fd, other)).custom_id == custom_id)
        return int(self.records[first]["line"])

    def _raw(self, fd: int, line_no: int) -> bytes:
        record = self.records[line_no]
        return read_exactly(fd, int(record["length"]), int(record["offset"]), self.blob_path)


def _verified(path: Path, fd: int) -> tuple[Header, Tables]:
    size = os.fstat(fd).st_size
    raw = os.pread(fd, HEADER.size, 0)
    if len(raw) < HEADER.size:
        raise Damaged(f"line index {path} is cut off at byte {len(raw)}, inside its header")
    header = Header(*HEADER.unpack(raw))
    if header.magic != MAGIC or header.header_bytes != HEADER.size:
        raise Damaged(f"{path} is not a line index: it starts with {raw[:8]!r}")
    if header.version != VERSION:
        raise Damaged(
            f"line index {path} has format {header.version}; this version reads {VERSION}: upload the file again"
        )
    expected = HEADER.size + header.lines * RECORD.size + header.tables_bytes
    if size != expected:
        raise Damaged(f"line index {path} has {size} bytes where its header promises {expected}")
    if checksum_of(fd, raw, size) != header.checksum:
        raise Damaged(f"line index {path} fails its checksum over {size} bytes")
    tables = os.pread(fd, header.tables_bytes, size - header.tables_bytes)
    return header, msgspec.json.decode(tables, type=Tables)
