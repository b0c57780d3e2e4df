"""The door between online and batch: requests that are held open while they run in the batch class.

A flex request costs an online one as little as a batch line does: the engine orders it behind, it is no presence that
batch work would yield to, and while an online request is on a device only a few flex requests are sent there; the
others wait here, in order of arrival.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from engine.registry import Registry
from server.errors import ApiError, retry_after
from server.settings import ServerSettings

ADVICE = "Try again later, or without service_tier 'flex'."


class Flex:
    """Event loop only."""

    def __init__(self, registry: Registry, settings: ServerSettings) -> None:
        self._presence = registry.presence
        self._settings = settings
        self._held = 0
        self._running: Counter[str] = Counter()
        self._changed = asyncio.Event()
        self._presence.on_change(self._wake)
        registry.on_change(self._wake)

    @property
    def held(self) -> int:
        """Requests that are held open, those that wait for their turn included."""
        return self._held

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Count a request for as long as it is held open. 429 when there are too many already."""
        if self._held >= self._settings.flex_inflight_max:
            raise self.refusal(f"{self._held} flex requests are held open already ([server] flex_inflight_max)")
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1

    @contextmanager
    def running(self, engine: str) -> Iterator[None]:
        """A flex request is on this engine for as long as the context lasts."""
        self._running[engine] += 1
        try:
            yield
        finally:
            self._running[engine] -= 1
            self._wake()

    def is_open(self, engine: str) -> bool:
        """Whether another flex request may go to this engine now."""
        if not self._presence.on_device_of(engine):
            return True
        beside = sum(
            count for other, count in self._running.items() if other == engine or self._presence.share(engine, other)
        )
        return beside < self._settings.flex_beside_online_max

    async def changed(self) -> None:
        """Wait until `is_open` may say something else of some engine."""
        await self._changed.wait()

    def refusal(self, why: str) -> ApiError:
        return ApiError(
            429,
            f"Resource unavailable: {why}. {ADVICE}",
            type="requests",
            code="resource_unavailable",
            headers=retry_after(self._settings.retry_after_seconds),
        )

    def _wake(self) -> None:
        waking, self._changed = self._changed, asyncio.Event()
        waking.set()
