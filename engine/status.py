"""The bookkeeping that every engine of ours shares: its status with the callbacks, and what it has in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from engine.protocol import EngineState, EngineStatus


class StatusBoard:
    """Where an engine writes its state; who asked is told of every change."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._callbacks: list[Callable[[], None]] = []
        self.current = EngineStatus(EngineState.STOPPED, now())

    @property
    def state(self) -> EngineState:
        return self.current.state

    def shows(self, *states: EngineState) -> bool:
        return self.current.state in states

    def on_change(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    def change(self, state: EngineState, *, reason: str | None = None) -> None:
        """STARTING counts a start, READY an incarnation; `since_at` moves when the state does."""
        before = self.current
        moved = before.state is not state
        self.current = replace(
            before,
            state=state,
            reason=reason,
            since_at=self._now() if moved else before.since_at,
            starts=before.starts + (moved and state is EngineState.STARTING),
            incarnation=before.incarnation + (moved and state is EngineState.READY),
        )
        if moved or before.reason != reason:
            for callback in self._callbacks:
                callback()


class InFlight:
    """Counts sequences in flight, and lets a drain wait until there are none. `highest` is the most at once since
    someone last set it."""

    def __init__(self) -> None:
        self.sequences = 0
        self.highest = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def counted(self, sequences: int) -> Iterator[None]:
        self.sequences += sequences
        self.highest = max(self.highest, self.sequences)
        self._idle.clear()
        try:
            yield
        finally:
            self.sequences -= sequences
            if self.sequences == 0:
                self._idle.set()

    async def drain(self, seconds_max: float) -> None:
        """Wait until nothing is in flight, or for that long."""
        if seconds_max > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds_max):
                    await self._idle.wait()
