"""How much room there is, and how much of it is promised: what has started must be able to end.

Finalizing a batch copies its segments into output files, so as many bytes as lie in unfinalised segments are spoken
for. Uploads and new leases stay clear of those and of the reserve; finalizing may use both.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

from store.folder import SEGMENT_SUFFIX
from store.records import DiskFull
from store.settings import MIB, StoreSettings

MEASURED_FOR_SECONDS = 2.0
"""How long a measurement of the segments is good enough for an upload that asks chunk by chunk."""


def free_bytes_of(folder: Path) -> int:
    """Bytes that this user may still write on the file system of `folder`."""
    stat = os.statvfs(folder)
    return stat.f_bavail * stat.f_frsize


class Disk:
    """`free_bytes_of` and `monotonic` are arguments so that a test can fill a disk and let time pass."""

    def __init__(
        self,
        folder: Path,
        settings: StoreSettings,
        *,
        free_bytes_of: Callable[[Path], int] = free_bytes_of,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._reserve_bytes = settings.disk_reserve_bytes
        self._free_bytes_of = free_bytes_of
        self._monotonic = monotonic
        self._measured_bytes = 0
        self._measured_at: float | None = None

    @property
    def reserve_bytes(self) -> int:
        return self._reserve_bytes

    def free_bytes(self) -> int:
        return self._free_bytes_of(self._folder)

    async def unfinalised_bytes(self) -> int:
        """Bytes in segments of batches that have not ended, measured now."""
        self._measured_bytes = await asyncio.to_thread(_segment_bytes, self._folder / "work")
        self._measured_at = self._monotonic()
        return self._measured_bytes

    async def room_for_upload(self, bytes: int) -> None:  # noqa: A002
        """Raise DiskFull unless `bytes` more can be written and everything that has started can still end."""
        if self._measured_at is None or self._monotonic() - self._measured_at > MEASURED_FOR_SECONDS:
            await self.unfinalised_bytes()
        free = self.free_bytes()
        if free - bytes < self._reserve_bytes + self._measured_bytes:
            raise DiskFull(
                f"no room for {_mib(bytes)} on the server's disk: {_mib(free)} free, of which "
                f"{_mib(self._reserve_bytes)} are the reserve and {_mib(self._measured_bytes)} are for the results "
                "of running batches. Delete files that are no longer needed, or enlarge the disk",
                self._folder,
            )

    def below_reserve(self, unfinalised_bytes: int) -> bool:
        """Whether leasing must stop: what runs could no longer be finalized from what is free above the reserve."""
        return self.free_bytes() < self._reserve_bytes + unfinalised_bytes


def _mib(count: int) -> str:
    return f"{count / MIB:,.1f} MiB"


def _segment_bytes(work: Path) -> int:
    total = 0
    for batch in _entries(work):
        if batch.is_dir(follow_symlinks=False):
            for entry in _entries(Path(batch.path)):
                if entry.name.endswith(SEGMENT_SUFFIX):
                    total += _size(entry)
    return total


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:  # the batch was finalized meanwhile
        return []


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:
        return 0
