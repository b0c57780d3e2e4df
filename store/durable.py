"""Making bytes survive a power cut: whole writes, synced files, synced folders, atomic replacement."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""EFBIG too: a file size limit is as good as a full disk to whoever must write."""

_PIECES_MAX: Final = 512
"""Half of what Linux takes in one call."""


def disk_full(error: OSError) -> bool:
    return error.errno in _FULL


def write_all(fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """Write all of `data` at `offset`: one call may write less (a signal, 2 GiB, a nearly full disk)."""
    left = memoryview(data)
    while left:
        written = os.pwrite(fd, left, offset)
        left = left[written:]
        offset += written


def write_pieces(fd: int, pieces: Sequence[bytes], offset: int) -> None:
    """As `write_all`, of pieces one behind the other, without a copy of them all in one."""
    for start in range(0, len(pieces), _PIECES_MAX):
        some = pieces[start : start + _PIECES_MAX]
        size = sum(map(len, some))
        written = os.pwritev(fd, some, offset)
        if written < size:
            write_all(fd, memoryview(b"".join(some))[written:], offset + written)
        offset += size


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable: a file's own fsync does not."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folder(folder: Path) -> None:
    """Make sure that `folder` is there, and its name durable in its parent (whoever made it may have been cut off)."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except FileNotFoundError:
        make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
    sync_folder(folder.parent)


def replace_file(path: Path, data: bytes | bytearray | memoryview) -> None:
    """Write a small file so that it is there whole, or not at all. Missing folders are made."""
    make_folder(path.parent)
    temp = path.with_name(path.name + ".new")
    fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        write_all(fd, data, 0)
        os.fsync(fd)
    except BaseException:
        temp.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)
    temp.replace(path)
    sync_folder(path.parent)
