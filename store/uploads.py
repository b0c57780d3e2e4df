"""Uploads: bytes go to a temporary file as they come, and are indexed by a worker process while they do.

An upload becomes a blob only in `finish`; before that a crash leaves nothing but a temporary file. Nothing here blocks
the event loop: writing and syncing run on threads, indexing in another process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from store.blobs import Blobs, StoredBlob
from store.disk import Disk
from store.durable import disk_full, write_pieces
from store.index import INDEX_SUFFIX
from store.index_pool import IndexJob, IndexPool, WorkerDied
from store.markers import reach
from store.pacing import Pace
from store.records import DiskFull, InputSummary, StoreError, TooLarge
from store.settings import MIB, StoreSettings

WRITE_BYTES: Final = 1 * MIB
"""How much an upload gathers before it is written: one thread hop, and one word to the index worker, for this much."""

SYNC_BYTES: Final = 16 * MIB
"""After so much more an upload is synced while it goes on, so that its end need not wait for all of it."""

log = logging.getLogger(__name__)


class Uploads:
    """The uploads in progress of one data folder (`folder` is the data folder itself)."""

    def __init__(
        self,
        folder: Path,
        blobs: Blobs,
        disk: Disk,
        settings: StoreSettings,
        secret: bytes,
        pace: Pace | None = None,
    ) -> None:
        self._folder = folder
        self._blobs = blobs
        self._disk = disk
        self._settings = settings
        self._pace = pace or Pace()
        self._pool = IndexPool(settings, secret)

    async def begin(self, *, indexed: bool) -> Upload:
        """A new upload; `indexed` for batch inputs. DiskFull when there is no room for any. End it with `finish` or
        `abort`."""
        await self._disk.room_for_upload(WRITE_BYTES)
        key = secrets.token_hex(16)
        temp = self._blobs.temp_path(key)
        spool = await asyncio.to_thread(_Spool, temp)
        upload = Upload(key, spool, self._blobs, self._disk, self._settings, self._pace)
        if indexed:
            try:
                await upload.index_with(self._pool)
            except BaseException:
                await upload.abort()
                raise
        return upload

    async def prepare(self) -> None:
        """So that the first upload need not wait for its index worker to start."""
        await self._pool.prepare()

    def yield_to_online(self, present: bool) -> None:
        """What has come already is indexed more slowly too; what is to come waits for the pace."""
        self._pool.yield_to_online(present)

    def worker_pids(self) -> list[int]:
        """The process ids of the index workers that run."""
        return self._pool.pids()

    async def close(self) -> None:
        """End the index workers. Uploads that are not finished fail."""
        await self._pool.close()


class Upload:
    """One file on its way in. One task writes; `abort` may come at any time, also after a failure or a second time.
    Once finished, the bytes are the caller's (`Blobs.delete`), and `abort` does nothing."""

    def __init__(self, key: str, spool: _Spool, blobs: Blobs, disk: Disk, settings: StoreSettings, pace: Pace) -> None:
        self.key = key
        self._spool = spool
        self._blobs = blobs
        self._disk = disk
        self._pace = pace
        self._bytes_max = settings.upload_bytes_max
        self._bytes = 0
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._pool: IndexPool | None = None
        self._job: IndexJob | None = None
        self._finished = False
        self._synced_bytes = 0
        self._syncing: asyncio.Task[None] | None = None

    async def index_with(self, pool: IndexPool) -> None:
        """Have the lines indexed, from the first byte on."""
        self._pool = pool
        self._job = await pool.begin(self._spool.path, self._index_path)

    async def write(self, data: bytes) -> None:
        """Take the next bytes. TooLarge and DiskFull end the upload: abort it."""
        self._bytes += len(data)
        if self._bytes > self._bytes_max:
            raise TooLarge(f"the upload is larger than {self._bytes_max:,} bytes, the most that one file may have")
        self._gathered.append(data)
        self._gathered_bytes += len(data)
        if self._gathered_bytes >= WRITE_BYTES:
            await self._flush()

    async def finish(self) -> StoredBlob:
        """Make the bytes and their index durable. An upload that cannot be finished is aborted."""
        try:
            await self._flush()
            reach("upload.received")
            summary, _ = await asyncio.gather(self._indexed(), asyncio.to_thread(self._spool.sync))
            await self._settle()
            await asyncio.to_thread(self._publish)
        except BaseException:
            await self.abort()
            raise
        self._finished = True
        reach("upload.indexed")
        return StoredBlob(self.key, self._bytes, summary)

    async def abort(self) -> None:
        """Forget the upload. What is being written on a thread is waited for."""
        if self._finished:
            return
        if self._job is not None:
            self._job.abort()
        with contextlib.suppress(Exception):  # the upload is given up, whatever else is wrong with it
            await self._settle()
        await asyncio.to_thread(self._discard)

    @property
    def _index_path(self) -> Path:
        return self._spool.path.with_name(self._spool.path.name + INDEX_SUFFIX)

    async def _flush(self) -> None:
        if not self._gathered:
            return
        pieces, self._gathered = self._gathered, []
        gathered_bytes, self._gathered_bytes = self._gathered_bytes, 0
        await self._disk.room_for_upload(gathered_bytes)
        await self._pace.taken(gathered_bytes)  # nothing more of the body is read meanwhile: the client waits
        size = await asyncio.to_thread(self._spool.write, pieces)
        if self._job is not None:
            self._job.grow(size)
        if size - self._synced_bytes >= SYNC_BYTES and (self._syncing is None or self._syncing.done()):
            await self._settle()
            self._synced_bytes = size
            self._syncing = asyncio.create_task(asyncio.to_thread(self._spool.sync_so_far))

    async def _settle(self) -> None:
        """Wait for a sync that was started on the way; what it met is this upload's."""
        syncing, self._syncing = self._syncing, None
        if syncing is not None:
            await syncing

    async def _indexed(self) -> InputSummary | None:
        """The summary of the finished index. A worker that died costs indexing from the start, once."""
        if self._job is None or self._pool is None:
            return None
        try:
            return await self._job.end(self._bytes)
        except WorkerDied as error:
            log.warning("indexing upload %s again from the start: %s", self.key, error)
        try:
            self._job = await self._pool.begin(self._spool.path, self._index_path)
            return await self._job.end(self._bytes)
        except WorkerDied as error:
            raise StoreError(f"the upload could not be indexed, twice: {error}. Send it again") from error

    def _publish(self) -> None:
        self._spool.close()
        try:
            self._blobs.publish(self.key)
        except OSError as error:
            if disk_full(error):
                raise DiskFull(f"no room to keep the upload: {error.strerror}") from error
            raise

    def _discard(self) -> None:
        self._spool.close()
        self._blobs.discard(self.key)


class _Spool:
    """The temporary file of an upload, used from one thread at a time; closing waits for a write that still runs (its
    task may have been cancelled, and a closed descriptor may be someone else's by then)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._size = 0
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def write(self, pieces: Sequence[bytes]) -> int:
        """Append; the size of the file now."""
        with self._lock:
            try:
                write_pieces(self._open_fd(), pieces, self._size)
            except OSError as error:
                raise self._refusal(error) from error
            self._size += sum(map(len, pieces))
            return self._size

    def sync(self) -> None:
        with self._lock:
            try:
                os.fsync(self._open_fd())
            except OSError as error:
                raise self._refusal(error) from error

    def sync_so_far(self) -> None:
        """Let the disk begin: what is written by now need not be waited for at the end. Writing goes on meanwhile."""
        with self._lock:
            fd = os.dup(self._open_fd())
        try:
            os.fdatasync(fd)
        except OSError as error:
            raise self._refusal(error) from error
        finally:
            os.close(fd)

    def close(self) -> None:
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def _open_fd(self) -> int:
        if self._fd < 0:
            raise StoreError("the upload was given up")
        return self._fd

    def _refusal(self, error: OSError) -> Exception:
        if disk_full(error):
            return DiskFull(f"no room for the upload after {self._size:,} bytes: {error.strerror}")
        return error
