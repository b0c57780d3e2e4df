"""One server per data folder: an advisory lock that the kernel drops when its holder dies, however it dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from store.records import FolderLocked

LOCK_NAME = "nightbatch.lock"


class FolderLock:
    """Held from construction until `release`. The file stays: removing it would let two servers hold two locks."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK_NAME
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            os.close(descriptor)
            raise FolderLocked(_refusal(folder, holder)) from None
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _refusal(folder: Path, holder: str) -> str:
    by = f"pid {holder}" if holder.isdecimal() else "an unknown pid"
    stop = f"stop it (kill {holder})" if holder.isdecimal() else "stop it"
    return f"another server ({by}) is using the data folder {folder}: {stop}, or give this one another folder"
