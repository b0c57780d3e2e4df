"""An event loop whose idle time takes no time: when nothing is left to do until the next timer, the clock jumps there.

What happens outside the loop is real and is waited for: SQLite's threads, executors, index workers. While any of it is
under way the clock runs at its real pace, so that a lease never expires because a disk was slow. (looptime, which jumps
likewise, waits for executors only: with aiosqlite's threads hours pass during one statement.)
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, TypeVar
from unittest import mock

import aiosqlite.core

T = TypeVar("T")


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, jump: Callable[[float], bool]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """As any selector, but it does not wait where the clock may jump instead."""
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        return super().select(0) or ([] if self._jump(timeout) else super().select(timeout))


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumped_seconds = 0.0
        self._outside = 0
        super().__init__(_JumpingSelector(self._jump))

    def time(self) -> float:
        return time.monotonic() + self._jumped_seconds

    def run_in_executor(self, *given: Any) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = super().run_in_executor(*given)
        self.wait_for_outside(future)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - theirs
        """As any loop's, without the limit: from Python 3.12 on it is a timer, over which the clock would jump."""
        await super().shutdown_default_executor()

    def wait_for_outside(self, future: asyncio.Future[Any]) -> None:
        """Somebody outside of the loop works on this: do not jump before it is done."""
        self._outside += 1
        future.add_done_callback(lambda _: self._left())

    @contextmanager
    def at_real_pace(self) -> Iterator[None]:
        """For what talks to other processes."""
        self._outside += 1
        try:
            yield
        finally:
            self._left()

    def _left(self) -> None:
        self._outside -= 1

    def _jump(self, seconds: float) -> bool:
        if self._outside:
            return False
        self._jumped_seconds += seconds
        return True


class _WatchedQueue(SimpleQueue[Any]):
    """What aiosqlite gives its threads to do: futures with functions."""

    def put_nowait(self, item: tuple[asyncio.Future[Any] | None, Callable[[], Any]]) -> None:
        future, _ = item
        if future is not None:
            loop = future.get_loop()
            assert isinstance(loop, VirtualTimeLoop)
            loop.wait_for_outside(future)
        super().put_nowait(item)


def run_in_virtual_time(main: Coroutine[Any, Any, T]) -> T:
    with (
        mock.patch.object(aiosqlite.core, "SimpleQueue", _WatchedQueue),
        asyncio.Runner(loop_factory=VirtualTimeLoop) as runner,
    ):
        return runner.run(main)


def virtual_loop() -> VirtualTimeLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    return loop
