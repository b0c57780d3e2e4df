"""How fast the store's own work may go: a budget of bytes per second while somebody waits for an online answer.

Indexing, ordering, composing and compressing take cores and disk from an engine beside them. They are cut into pieces
that each ask first. The work is slowed down rather than given a lower priority, except in the index workers: a thread
of low priority that holds the interpreter's lock, and is then not run, holds up the event loop and every online token
with it. A worker process has a lock of its own.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, ParamSpec, TypeVar

BURST_BYTES: Final = 1024 * 1024
"""What may go at once after a rest: the work of a small file is never held up."""

WAIT_SECONDS_MAX: Final = 30.0
"""The longest wait before one piece, whatever its size and whoever is ahead: slow is not stuck."""

THREADS_MAX: Final = 8
"""Threads for work that may wait: those that all share must stay free for online requests."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Bucket:
    """`level` bytes may go at once at the time `at`; below zero that many were granted in advance."""

    bytes_per_s: float
    level: float
    at: float

    def take(self, count: int, now: float) -> tuple[Bucket, float]:
        """The bucket without `count` bytes, and the seconds to wait before they are used."""
        earned = max(0.0, now - self.at) * self.bytes_per_s
        level = min(self.level + earned, BURST_BYTES) - count
        level = max(level, -WAIT_SECONDS_MAX * self.bytes_per_s)
        return replace(self, level=level, at=now), max(0.0, -level / self.bytes_per_s)


class Pace:
    """One budget for all who ask. Without a limit nobody waits, and who waits goes on when the limit is lifted.

    `take` is for threads, `taken` for the event loop; `limit` is called on that loop, if there is one.
    """

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._bucket: Bucket | None = None
        self._changed = threading.Condition()
        self._lifted_times = 0
        self._lifted = asyncio.Event()
        self._threads: ThreadPoolExecutor | None = None
        self._closed = False

    @property
    def is_limited(self) -> bool:
        return self._bucket is not None

    def limit(self, bytes_per_s: float | None) -> None:
        """From now on so fast; None: as fast as it goes."""
        with self._changed:
            if bytes_per_s is None or self._closed:
                self._bucket = None
                self._lifted_times += 1
                self._changed.notify_all()
            elif self._bucket is None:
                self._bucket = Bucket(bytes_per_s, BURST_BYTES, self._monotonic())
            else:
                self._bucket = replace(self._bucket, bytes_per_s=bytes_per_s)
        if self._bucket is None:
            self._lifted.set()
        else:
            self._lifted.clear()

    def take(self, count: int) -> None:
        """Wait until `count` bytes may go, blocking the thread."""
        with self._changed:
            seconds, lifted_times = self._reserve(count), self._lifted_times
            if seconds > 0:
                self._changed.wait_for(lambda: self._lifted_times != lifted_times, timeout=seconds)

    async def taken(self, count: int) -> None:
        """Wait until `count` bytes may go, without blocking the loop."""
        with self._changed:
            seconds = self._reserve(count)
        if seconds > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._lifted.wait()

    async def run(self, function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """`asyncio.to_thread` for a function that may `take`, on threads that nothing else needs."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="paced")
        call = functools.partial(contextvars.copy_context().run, function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    async def close(self) -> None:
        """Nobody waits any more, and what has not begun does not begin. Returns when all threads have ended."""
        self._closed = True
        self.limit(None)
        if self._threads is not None:
            await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)

    def _reserve(self, count: int) -> float:
        if self._bucket is None:
            return 0.0
        self._bucket, seconds = self._bucket.take(count, self._monotonic())
        return seconds
