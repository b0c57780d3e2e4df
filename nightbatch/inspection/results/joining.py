"""Two large files joined by custom_id: of each line a hash and a place stay in memory (24 bytes), never its body."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from nightbatch.inspection.results.answers import Answer, NotAResult, answer_of
from nightbatch.inspection.scanning import READ_BYTES
from store.line_blocks import Block, LineBlocks
from store.lines import BYTE_ORDER_MARK

LINE_BYTES_MAX: Final = 2**31 - 1
FAULTS_SHOWN_MAX: Final = 5
IDS_SHOWN_MAX: Final = 5

OnBytes = Callable[[int], None]
Numbers = npt.NDArray[np.int64]


class _Named(msgspec.Struct, gc=False):
    custom_id: str


_decode_named = msgspec.json.Decoder(_Named).decode


@dataclass(frozen=True, slots=True)
class ResultFile:
    """Where each result of a file is. `repeated` counts lines whose custom_id came before (the first counts);
    `faults` are the first of `faulty` lines that are no results."""

    path: Path
    hashes: npt.NDArray[np.uint64]
    offsets: Numbers
    lengths: Numbers
    repeated: int
    faulty: int
    faults: tuple[tuple[int, str], ...]

    @property
    def count(self) -> int:
        return len(self.hashes)


def index_results(path: Path, on_bytes: OnBytes = lambda done: None) -> ResultFile:
    """Reads the file once. The body of a line is not opened yet."""
    hashes, offsets, lengths = array("Q"), array("q"), array("q")
    faults: list[tuple[int, str]] = []
    faulty = 0
    for line, offset, raw in _placed_lines(path, on_bytes):
        try:
            custom_id = _decode_named(raw).custom_id
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            faulty += 1
            if len(faults) < FAULTS_SHOWN_MAX:
                faults.append((line, str(error)))
            continue
        hashes.append(xxhash.xxh3_64_intdigest(custom_id.encode()))
        offsets.append(offset)
        lengths.append(len(raw))
    found = np.frombuffer(hashes, np.uint64)
    _, first = np.unique(found, return_index=True)
    first.sort()
    return ResultFile(
        path=path,
        hashes=found[first],
        offsets=np.frombuffer(offsets, np.int64)[first],
        lengths=np.frombuffer(lengths, np.int64)[first],
        repeated=len(found) - len(first),
        faulty=faulty,
        faults=tuple(faults),
    )


def _placed_lines(path: Path, on_bytes: OnBytes) -> Iterator[tuple[int, int, bytes]]:
    """(number, offset, bytes) of each line that is not blank."""
    line = 0
    for block in _blocks(path, on_bytes):
        offset = block.offset
        for whole in block.lines:
            line += 1
            raw = whole.removesuffix(b"\r")
            skipped = len(BYTE_ORDER_MARK) if offset == 0 and raw.startswith(BYTE_ORDER_MARK) else 0
            if raw and not raw.isspace():
                yield line, offset + skipped, raw[skipped:]
            offset += len(whole) + 1


def _blocks(path: Path, on_bytes: OnBytes) -> Iterator[Block]:
    blocks, done = LineBlocks(LINE_BYTES_MAX), 0
    with path.open("rb") as file:
        while chunk := file.read(READ_BYTES):
            done += len(chunk)
            yield from (piece for piece in blocks.take(chunk) if isinstance(piece, Block))
            on_bytes(done)
    yield from (piece for piece in blocks.end() if isinstance(piece, Block))


@dataclass(frozen=True, slots=True)
class Joined:
    """The places of results with the same custom_id, in the order of ours, and of those that only one side has."""

    ours: ResultFile
    theirs: ResultFile
    pairs: tuple[Numbers, Numbers]
    only_ours: Numbers
    only_theirs: Numbers

    @property
    def count(self) -> int:
        return len(self.pairs[0])

    def read_pairs(self) -> Iterator[tuple[Answer, Answer] | NotAResult]:
        """Each pair's answers, or why one of its lines is no result."""
        with _Reader(self.ours) as ours, _Reader(self.theirs) as theirs:
            for left, right in zip(*self.pairs, strict=True):
                try:
                    pair = answer_of(ours.line(int(left))), answer_of(theirs.line(int(right)))
                except NotAResult as error:
                    yield error
                    continue
                if pair[0].custom_id == pair[1].custom_id:  # 64 bits of hash may lie, once in a great while
                    yield pair

    def ids_of(self, side: ResultFile, places: Numbers) -> list[str]:
        """The first custom_ids of some results."""
        with _Reader(side) as reader:
            return [_decode_named(reader.line(int(place))).custom_id for place in places[:IDS_SHOWN_MAX]]


def join(ours: ResultFile, theirs: ResultFile) -> Joined:
    _, left, right = np.intersect1d(ours.hashes, theirs.hashes, assume_unique=True, return_indices=True)
    order = np.argsort(left)
    alone_ours = np.setdiff1d(np.arange(ours.count), left, assume_unique=True)
    alone_theirs = np.setdiff1d(np.arange(theirs.count), right, assume_unique=True)
    return Joined(ours, theirs, (left[order], right[order]), alone_ours, alone_theirs)


class _Reader:
    def __init__(self, results: ResultFile) -> None:
        self._results = results
        self._fd = -1

    def __enter__(self) -> _Reader:
        self._fd = os.open(self._results.path, os.O_RDONLY | os.O_CLOEXEC)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def line(self, place: int) -> bytes:
        return os.pread(self._fd, int(self._results.lengths[place]), int(self._results.offsets[place]))
