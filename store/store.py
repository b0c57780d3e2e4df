"""The store's front door: one data folder, opened whole or not at all."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from store import migrations
from store.batches import Batches
from store.blobs import Blobs
from store.disk import Disk, free_bytes_of
from store.events import Events
from store.files import Files
from store.folder import DATABASE_NAME, SEGMENT_SUFFIX, prepare_folder, read_or_make_secret
from store.kept import Kept
from store.lock import FolderLock
from store.pacing import Pace
from store.parts import Parts
from store.settings import StoreSettings
from store.sqlite import Database
from store.uploads import Uploads
from store.work import Work


class Store:
    """What survives a crash. Open it with `open_store`, close it with `close` (or use it in `async with`)."""

    def __init__(
        self,
        folder: Path,
        *,
        files: Files,
        batches: Batches,
        work: Work,
        events: Events,
        blobs: Blobs,
        uploads: Uploads,
        parts: Parts,
        disk: Disk,
        kept: Kept,
        intake_pace: Pace,
        download_pace: Pace,
        settings: StoreSettings,
        opened: AsyncExitStack,
    ) -> None:
        self.folder = folder
        self.files = files
        self.batches = batches
        self.work = work
        self.events = events
        self.blobs = blobs
        self.uploads = uploads
        self.parts = parts
        self.disk = disk
        self.kept = kept
        self.intake_pace = intake_pace
        """Asked before bytes are indexed, ordered, composed, merged or compressed."""
        self.download_pace = download_pace
        self._settings = settings
        self._lingering: asyncio.TimerHandle | None = None
        self._opened = opened

    def order_path(self, batch_id: str) -> Path:
        return self.folder / "work" / batch_id / "order"

    def invalid_path(self, batch_id: str) -> Path:
        """The segment with the results of lines that validation refused, where a batch has such lines."""
        return self.order_path(batch_id).with_name("invalid.segment")

    def segment_path(self, batch_id: str, shard_no: int, generation: int) -> Path:
        return self.folder / "work" / batch_id / f"{shard_no}-{generation}{SEGMENT_SUFFIX}"

    def index_path(self, blob: str) -> Path:
        return self.blobs.index_path(blob)

    def yield_to_online(self, present: bool) -> None:
        """Work on files goes slowly while an online request is under way on this machine, and at full speed some time
        after the last one. From the event loop only."""
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        if present:
            self._limit(True)
        else:
            seconds = self._settings.online_linger_seconds
            self._lingering = asyncio.get_running_loop().call_later(seconds, self._limit, False)

    def _limit(self, present: bool) -> None:
        settings = self._settings
        self.intake_pace.limit(settings.intake_bytes_per_s_online if present else None)
        self.download_pace.limit(settings.download_bytes_per_s_online if present else None)
        self.uploads.yield_to_online(present)

    async def close(self) -> None:
        """End the index workers, close the database, let the folder go. A second call does nothing."""
        if self._lingering is not None:
            self._lingering.cancel()
        await self._opened.aclose()

    async def __aenter__(self) -> Store:
        return self

    async def __aexit__(self, *_raised: object) -> None:
        await self.close()


async def open_store(
    folder: Path,
    *,
    settings: StoreSettings = StoreSettings(),  # noqa: B008 (frozen)
    now: Callable[[], float] = time.time,
    lock: bool = True,
    free_bytes_of: Callable[[Path], int] = free_bytes_of,
) -> Store:
    """Open the data folder, making it and bringing its database up to date where needed.

    Raises FolderLocked when another server has it. `lock=False` is for a second opener that knows what it does (two
    schedulers in a test): it leaves the uploads of the first alone.
    """
    folder = folder.absolute()
    async with AsyncExitStack() as opening:
        await asyncio.to_thread(prepare_folder, folder)
        if lock:
            held = FolderLock(folder)
            opening.callback(held.release)
            await asyncio.to_thread(_drop_unfinished_uploads, folder / "tmp")
        secret = await asyncio.to_thread(read_or_make_secret, folder)
        path = folder / DATABASE_NAME
        await asyncio.to_thread(migrations.upgrade, path, settings)
        database = Database(path, settings)
        opening.push_async_callback(database.close)
        disk = Disk(folder, settings, free_bytes_of=free_bytes_of)
        kept = Kept(
            folder,
            secret,
            bytes_max=settings.reuse_bytes_max,
            kept_seconds=settings.reuse_kept_seconds,
            has_room=lambda: disk.free_bytes() > settings.disk_reserve_bytes,
            now=now,
        )
        opening.callback(kept.close)
        blobs = Blobs(folder)
        intake_pace, download_pace = Pace(), Pace()
        uploads = Uploads(folder, blobs, disk, settings, secret, intake_pace)
        opening.push_async_callback(uploads.close)
        opening.push_async_callback(intake_pace.close)
        opening.push_async_callback(download_pace.close)
        return Store(
            folder,
            files=Files(database, now),
            batches=Batches(database),
            work=Work(database, now),
            events=Events(database),
            blobs=blobs,
            uploads=uploads,
            parts=Parts(database),
            disk=disk,
            kept=kept,
            intake_pace=intake_pace,
            download_pace=download_pace,
            settings=settings,
            opened=opening.pop_all(),
        )


def _drop_unfinished_uploads(tmp: Path) -> None:
    """Nothing in tmp/ has a name that anyone was told: an interrupted upload or output starts again."""
    for entry in tmp.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
