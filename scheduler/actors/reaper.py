"""Takes away what time or a crash has left: dead leases, expired files, bytes and folders that no row names."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from scheduler.settings import SchedulerSettings
from store import Store
from store.records import FileInUse

log = logging.getLogger(__name__)


class Reaper:
    """Rows go before bytes: a row never names bytes that are gone, bytes without a row are reaped next time."""

    def __init__(self, store: Store, settings: SchedulerSettings, *, now: Callable[[], float]) -> None:
        self._store = store
        self._settings = settings
        self._now = now

    async def reap(self) -> None:
        for step in (
            self._leases,
            self._expired_files,
            self._expired_uploads,
            self._orphan_blobs,
            self._orphan_folders,
            self._kept_answers,
        ):
            try:
                await step()
            except Exception:
                log.exception("reaping%s ended unexpectedly; it is tried again", step.__name__.replace("_", " "))

    async def _leases(self) -> None:
        reclaimed = await self._store.work.reclaim(now=self._now())
        if reclaimed:
            log.warning("%d leases expired and were reclaimed", reclaimed)

    async def _expired_files(self) -> None:
        expired = await self._store.files.expired(int(self._now()), self._settings.expired_files_per_round_max)
        for file in expired:
            try:
                gone = await self._store.files.delete(file.tenant, file.id)
            except FileInUse:  # a batch reads it to its end, whatever its expiry says
                continue
            if gone is not None:
                await self._store.blobs.delete(gone.blob)
                log.info("file %s expired and was deleted", file.id, extra={"tenant": file.tenant})

    async def _expired_uploads(self) -> None:
        blobs = await self._store.parts.expire(int(self._now()), self._settings.expired_files_per_round_max)
        for blob in blobs:
            await self._store.blobs.delete(blob)
        if blobs:
            log.info("%d parts of uploads that were not completed in time were deleted", len(blobs))

    async def _orphan_blobs(self) -> None:
        keys = await self._store.blobs.keys(self._settings.orphan_seconds)
        for key in await self._store.files.without_row(keys):
            await self._store.blobs.delete(key)
            log.info("blob %s had no file row and was deleted", key)

    async def _orphan_folders(self) -> None:
        # Folders first: one that is listed belongs to a batch whose row is older than the list of active batches.
        work = self._store.order_path("batch").parent.parent
        names = await asyncio.to_thread(_names, work)
        if not names:
            return
        active = {batch.id for batch in await self._store.batches.active()}
        for name in names:
            if name not in active:
                await asyncio.to_thread(shutil.rmtree, work / name, ignore_errors=True)
                log.info("work folder of an ended batch deleted", extra={"batch": name})

    async def _kept_answers(self) -> None:
        forgotten = await asyncio.to_thread(self._store.kept.trim)
        if forgotten:
            log.info("%d kept answers were not used for long and were forgotten", forgotten)


def _names(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in folder.iterdir() if entry.is_dir()]
    except FileNotFoundError:
        return []
