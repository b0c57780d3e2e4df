"""Compressed inputs: told by their first bytes, unpacked once into a folder of ours, like the server does."""

from __future__ import annotations

import gzip
import importlib
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Final

CHUNK_BYTES: Final = 1024 * 1024
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"


class InspectionError(Exception):
    """A file cannot be looked into at all; one line that says why."""


def compression_of(path: Path) -> str | None:
    """`gzip`, `zstd` or None."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise InspectionError(f"{path}: {error.strerror or error}") from None
    if start.startswith(_GZIP):
        return "gzip"
    return "zstd" if start == _ZSTD else None


def unpack(path: Path, compression: str, target: Path, bytes_max: int, on_bytes: Callable[[int], None]) -> None:
    """Write the plain bytes of `path` to `target`; `on_bytes` hears how much of `path` is read."""
    written = 0
    try:
        with path.open("rb") as packed, _reader(packed, compression) as plain, target.open("wb") as out:
            while chunk := plain.read(CHUNK_BYTES):
                written += len(chunk)
                _refuse_above(bytes_max, written, path)
                out.write(chunk)
                on_bytes(packed.tell())
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InspectionError(f"{path}: not a whole {compression} file: {error}") from None
    except OSError as error:
        raise InspectionError(f"{path}: {error.strerror or error}") from None
    except InspectionError:
        raise
    except Exception as error:
        if "zst" not in type(error).__name__.lower():
            raise
        raise InspectionError(f"{path}: not a whole {compression} file: {error}") from None


def _refuse_above(bytes_max: int, written: int, path: Path) -> None:
    if written > bytes_max:
        limit = bytes_max // (1024 * 1024)
        raise InspectionError(f"{path}: more than {limit:,} MiB unpacked (upload_mib_max in [store])")


def _reader(packed: IO[bytes], compression: str) -> Any:
    if compression == "gzip":
        return gzip.GzipFile(fileobj=packed)
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name).ZstdFile(packed)
        except ImportError:
            continue
    try:
        return importlib.import_module("zstandard").ZstdDecompressor().stream_reader(packed, read_across_frames=True)
    except ImportError:
        raise InspectionError("a zstd file needs a package that is not installed: pip install zstandard") from None
