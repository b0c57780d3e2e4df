"""glibc's malloc, told not to give memory back to the kernel after every chunk.

Uploads move through buffers of 64 KiB to 1 MiB, made and freed thousands of times a second. By default glibc maps each
afresh, or trims the heap's top behind it, and the kernel has to clear every page again: 116,000 page faults and a tenth
of the CPU time for an upload of 500 MB. Other C libraries are left as they are.
"""

from __future__ import annotations

import ctypes
from typing import Final

TRIM_BYTES: Final = 16 * 1024 * 1024
"""Free memory at the end of the heap that a process keeps."""

MAP_BYTES: Final = 2 * 1024 * 1024
"""Requests from this size on get a mapping of their own, which goes back to the kernel when they are freed."""

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3


def keep_freed_memory() -> bool:
    """For the whole process, from now on. Whether the C library took it."""
    try:
        libc = ctypes.CDLL(None)
        assert libc.gnu_get_libc_version  # musl has a mallopt too, which does nothing
        mallopt = libc.mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, TRIM_BYTES) and mallopt(_M_MMAP_THRESHOLD, MAP_BYTES))
