"""Blobs: the bytes of files, in the data folder under names that nobody chose.

`DATA/blobs/<2 hex>/<key>`, the key being 32 random hex digits; a batch input has its line index beside it
(`<key>.index`), the results of a batch their sequence (`store.sequence`). A blob is written under `DATA/tmp`, synced,
renamed, and its folder synced: under its name it is whole and durable.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from store.durable import disk_full, make_folder, sync_folder
from store.index import INDEX_SUFFIX
from store.records import DiskFull, InputSummary, NotFound

READ_BYTES: Final = 1024 * 1024
"""How much one step of a download reads: large enough that a thread hop is cheap, small enough to hold many."""

_KEY: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A durable blob. `summary` is set when its lines were indexed."""

    key: str
    bytes: int
    summary: InputSummary | None = None


class Blobs:
    """The blobs of one data folder (`folder` is the data folder itself)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "blobs"
        self._temp_folder = folder / "tmp"

    def path(self, key: str) -> Path:
        if _KEY.fullmatch(key) is None:
            raise ValueError(f"not the key of a blob: {key!r}")
        return self._folder / key[:2] / key

    def temp_index_path(self, key: str) -> Path:
        """What is written here becomes the blob's index when the blob gets its name."""
        temp = self.temp_path(key)
        return temp.with_name(temp.name + INDEX_SUFFIX)

    def index_path(self, key: str) -> Path:
        path = self.path(key)
        return path.with_name(path.name + INDEX_SUFFIX)

    def temp_path(self, key: str) -> Path:
        """Where the bytes of a blob to be are written."""
        self._temp_folder.mkdir(parents=True, exist_ok=True)
        return self._temp_folder / key

    async def size(self, key: str) -> int:
        """NotFound when there is no such blob."""
        try:
            return (await asyncio.to_thread(self.path(key).stat)).st_size
        except FileNotFoundError as error:
            raise NotFound(f"the bytes of file {key} are gone") from error

    async def read(self, key: str, start: int = 0, stop: int | None = None) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` to `stop` (exclusive; None: the end), a chunk at a time.

        A blob deleted meanwhile is still read to its end.
        """
        try:
            file = await asyncio.to_thread(_open, self.path(key), start)
        except FileNotFoundError as error:
            raise NotFound(f"the bytes of file {key} are gone") from error
        position = start
        try:
            while stop is None or position < stop:
                wanted = READ_BYTES if stop is None else min(READ_BYTES, stop - position)
                data = await asyncio.to_thread(file.read, wanted)
                if not data:
                    return
                position += len(data)
                yield data
        finally:
            file.close()

    async def delete(self, key: str) -> None:
        """Remove a blob and its index; nothing happens when they are gone already."""
        await asyncio.to_thread(self._delete, key)

    def _delete(self, key: str) -> None:
        self.path(key).unlink(missing_ok=True)
        self.index_path(key).unlink(missing_ok=True)

    async def keys(self, older_than_seconds: float = 0.0) -> list[str]:
        """Keys of all blobs not written to for `older_than_seconds`, an index without its blob included: what to hold
        against the file rows to find orphans."""
        return await asyncio.to_thread(self._keys, time.time() - older_than_seconds)

    def _keys(self, written_before: float) -> list[str]:
        newest: dict[str, float] = {}
        for folder in self._folder.glob("[0-9a-f][0-9a-f]"):
            with os.scandir(folder) as entries:
                for entry in entries:
                    key = entry.name.removesuffix(INDEX_SUFFIX)
                    if _KEY.fullmatch(key) is not None:
                        newest[key] = max(newest.get(key, 0.0), _written_at(entry))
        return sorted(key for key, written_at in newest.items() if written_at <= written_before)

    def open_writer(self) -> BlobWriter:
        """A new blob, written on the calling thread."""
        return BlobWriter(self, secrets.token_hex(16))

    def publish(self, key: str) -> None:
        """Give synced temp bytes their name, with their index if they have one. Blocking.

        The index goes first: a blob that has its name has its index too.
        """
        path, temp = self.path(key), self.temp_path(key)
        make_folder(path.parent)
        temp_index = self.temp_index_path(key)
        if temp_index.exists():
            temp_index.replace(self.index_path(key))
        temp.replace(path)
        sync_folder(path.parent)

    def discard(self, key: str) -> None:
        """Remove what there is of a blob that nobody was told of. Blocking."""
        temp = self.temp_path(key)
        temp.unlink(missing_ok=True)
        self.temp_index_path(key).unlink(missing_ok=True)
        self._delete(key)


class BlobWriter:
    """One blob being written, on one thread. End it with `commit` or `abort`; a full disk is DiskFull from any step."""

    def __init__(self, blobs: Blobs, key: str) -> None:
        self.key = key
        self._blobs = blobs
        self._bytes = 0
        self._file: BinaryIO = blobs.temp_path(key).open("xb", buffering=0)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        left = memoryview(data)
        try:
            while left:
                written = os.write(self._file.fileno(), left)
                self._bytes += written
                left = left[written:]
        except OSError as error:
            raise self._full(error) from error

    def sync(self) -> None:
        """Make the bytes durable under their temporary name."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._full(error) from error

    def commit(self) -> StoredBlob:
        self.sync()
        self._file.close()
        try:
            self._blobs.publish(self.key)
        except OSError as error:
            raise self._full(error) from error
        return StoredBlob(self.key, self._bytes)

    def abort(self) -> None:
        """Leave nothing behind, also of a blob that was committed already."""
        self._file.close()
        self._blobs.discard(self.key)

    def _full(self, error: OSError) -> Exception:
        if disk_full(error):
            return DiskFull(f"no room for blob {self.key} after {self._bytes:,} bytes: {error.strerror}")
        return error


def _open(path: Path, start: int) -> BinaryIO:
    file = path.open("rb")  # buffered for its lock: a read on a thread may still run when its download is cancelled
    file.seek(start)
    return file


def _written_at(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
