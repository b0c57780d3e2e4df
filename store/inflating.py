"""Compressed files as they arrive: gzip and Zstandard, known by their first bytes, inflated piece by piece.

A few compressed bytes can stand for gigabytes, so no step makes more than a bounded piece: whoever takes the pieces
counts them and stops when there are too many.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdDecompressor, ZstdError
else:
    from backports.zstd import ZstdDecompressor, ZstdError

PIECE_BYTES_MAX: Final = 1024 * 1024
"""The most that one step inflates."""

MAGIC_BYTES: Final = 4
"""How many of a file's first bytes `compression_of` looks at."""

FIRST_READ_BYTES: Final = 64 * 1024

GZIP_WBITS: Final = 31  # zlib's word for a gzip header and trailer
GZIP, ZSTD = "gzip", "zstd"
SUFFIXES: Final = {GZIP: (".gz", ".gzip"), ZSTD: (".zst", ".zstd")}

_GZIP_MAGIC: Final = b"\x1f\x8b\x08"
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE: Final = b"\x2a\x4d\x18"  # after a byte 0x50 to 0x5f: a frame of a tool's own, before the data


class CorruptStream(Exception):
    """The bytes are no whole stream of their kind; the message says what is wrong with them."""


def compression_of(head: bytes) -> str | None:
    """The compression of a file that begins with `head`. No JSON text begins so: neither magic is valid UTF-8 text."""
    if head.startswith(_GZIP_MAGIC):
        return GZIP
    if head.startswith(_ZSTD_MAGIC) or (head[1:4] == _ZSTD_SKIPPABLE and 0x50 <= head[0] <= 0x5F):
        return ZSTD
    return None


def plain_name(filename: str, compression: str) -> str:
    """The name without the suffix of its compression, if that leaves any."""
    for suffix in SUFFIXES[compression]:
        if filename.lower().endswith(suffix):
            return filename[: -len(suffix)] or filename
    return filename


class Inflater:
    """Feed it, then take pieces until there are none: `while piece := inflater.piece()`. `end` says that no more bytes
    come. Files of several members or frames, one after the other, are one file, as for the command line tools."""

    def __init__(self, compression: str) -> None:
        self._compression = compression
        self._new: Callable[[], _Member] = _GzipMember if compression == GZIP else _ZstdFrame
        self._member: _Member | None = self._new()
        self._waiting = b""
        self._taken = 0

    def feed(self, data: bytes) -> None:
        self._waiting = self._waiting + data if self._waiting else data
        self._taken += len(data)

    def piece(self) -> bytes:
        """At most PIECE_BYTES_MAX of what is inflated; nothing when more must be fed first."""
        while True:
            if self._member is None and not self._begin_member():
                return b""
            assert self._member is not None
            try:
                piece = self._member.inflate(self._waiting)
            except (zlib.error, ZstdError) as error:
                raise CorruptStream(
                    f"it is not a valid {self._compression} stream within its first {self._taken:,} bytes ({error})"
                ) from None
            self._waiting = self._member.left
            if self._member.ended:
                self._member = None
            if piece or (self._member is not None and not self._member.has_more):
                return piece

    def end(self) -> None:
        if self._member is not None:
            raise CorruptStream(f"its {self._compression} stream is cut off after {self._taken:,} bytes")

    def _begin_member(self) -> bool:
        if self._compression == GZIP:
            self._waiting = self._waiting.lstrip(b"\0")  # tapes and archives pad with zeros, and gzip reads over them
        if not self._waiting:
            return False
        self._member = self._new()
        return True


def first_line(path: Path, bytes_max: int) -> bytes:
    """The first line of a file that may be compressed, of a longer one `bytes_max`. Blocking."""
    with path.open("rb") as file:
        compression = compression_of(file.read(MAGIC_BYTES))
        file.seek(0)
        if compression is None:
            return file.readline(bytes_max)
        inflater, found = Inflater(compression), b""
        while b"\n" not in found and len(found) < bytes_max and (data := file.read(FIRST_READ_BYTES)):
            inflater.feed(data)
            while b"\n" not in found and len(found) < bytes_max and (piece := inflater.piece()):
                found += piece
    return found[: found.find(b"\n") + 1 or len(found)][:bytes_max]


class _Member(Protocol):
    """One member or frame. `left` is what it has not taken of the bytes it was given: the caller gives it again."""

    left: bytes
    ended: bool
    has_more: bool

    def inflate(self, data: bytes) -> bytes: ...


class _GzipMember:
    def __init__(self) -> None:
        self._stream = zlib.decompressobj(GZIP_WBITS)
        self.left = b""
        self.ended = False
        self.has_more = False

    def inflate(self, data: bytes) -> bytes:
        piece = self._stream.decompress(data, PIECE_BYTES_MAX)
        self.ended = self._stream.eof
        self.left = self._stream.unused_data if self.ended else self._stream.unconsumed_tail
        self.has_more = len(piece) == PIECE_BYTES_MAX
        return piece


class _ZstdFrame:
    def __init__(self) -> None:
        self._stream = ZstdDecompressor()
        self.left = b""
        self.ended = False
        self.has_more = False

    def inflate(self, data: bytes) -> bytes:
        """It keeps what it has not used to itself."""
        piece = self._stream.decompress(data, PIECE_BYTES_MAX)
        self.ended = self._stream.eof
        self.left = self._stream.unused_data if self.ended else b""
        self.has_more = not self._stream.needs_input and not self.ended
        return piece
