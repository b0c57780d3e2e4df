"""Compressed inputs: told by their first bytes and inflated by the code of the server, into a folder of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from store import inflating
from store.inflating import MAGIC_BYTES, CorruptStream, Inflater

READ_BYTES: Final = 1024 * 1024
MIB: Final = 1024 * 1024


class InspectionError(Exception):
    """A file cannot be looked into at all; one line that says why."""


def compression_of(path: Path) -> str | None:
    """`gzip`, `zstd` or None."""
    try:
        with path.open("rb") as file:
            return inflating.compression_of(file.read(MAGIC_BYTES))
    except OSError as error:
        raise InspectionError(f"{path}: {error.strerror or error}") from None


def unpack(path: Path, compression: str, target: Path, bytes_max: int, on_bytes: Callable[[int], None]) -> None:
    """Write the plain bytes of `path` to `target`; `on_bytes` hears how much of `path` is read."""
    written = 0
    try:
        with path.open("rb") as packed, target.open("wb") as out:
            for piece in _pieces(packed, compression):
                written += len(piece)
                if written > bytes_max:
                    break
                out.write(piece)
                on_bytes(packed.tell())
    except CorruptStream as error:
        raise InspectionError(f"{path}: {error}") from None
    except OSError as error:
        raise InspectionError(f"{path}: {error.strerror or error}") from None
    if written > bytes_max:
        raise InspectionError(f"{path}: more than {bytes_max // MIB:,} MiB unpacked (upload_mib_max in [store])")


def _pieces(packed: BinaryIO, compression: str) -> Iterator[bytes]:
    inflater = Inflater(compression)
    while chunk := packed.read(READ_BYTES):
        inflater.feed(chunk)
        while piece := inflater.piece():
            yield piece
    inflater.end()
