"""Cutting a stream of chunks into blocks of whole lines, without ever holding a line that is too long."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Block(NamedTuple):
    """Whole lines, the first at `offset` of the stream; a newline between two of them, none behind the last."""

    offset: int
    data: bytes

    @property
    def lines(self) -> list[bytes]:
        return self.data.split(b"\n")


class Overlong(NamedTuple):
    """A line whose bytes were let go."""

    offset: int
    length: int


class LineBlocks:
    """`take` each chunk in turn, then `end`. A line is overlong beyond `line_bytes_max` bytes and a carriage return."""

    def __init__(self, line_bytes_max: int) -> None:
        self._tail_bytes_max = line_bytes_max + 1
        self._position = 0
        self._tail = b""
        self._tail_offset = 0
        self._overlong = False

    def take(self, chunk: bytes) -> Iterator[Block | Overlong]:
        self._position += len(chunk)
        start = 0
        if self._overlong:
            line_end = chunk.find(b"\n")
            if line_end < 0:
                return
            stop = self._position - len(chunk) + line_end
            yield Overlong(self._tail_offset, stop - self._tail_offset)
            self._overlong = False
            self._tail_offset = stop + 1
            start = line_end + 1
        end = chunk.rfind(b"\n", start)
        if end >= 0:
            yield Block(self._tail_offset, b"".join((self._tail, memoryview(chunk)[start:end])))
            self._tail = chunk[end + 1 :]
            self._tail_offset = self._position - len(self._tail)
        else:
            self._tail += chunk[start:]
        if len(self._tail) > self._tail_bytes_max:
            self._overlong = True
            self._tail = b""

    def end(self) -> Iterator[Block | Overlong]:
        """The last line, when no newline ends it."""
        if self._overlong:
            yield Overlong(self._tail_offset, self._position - self._tail_offset)
        elif self._tail:
            yield Block(self._tail_offset, self._tail)
