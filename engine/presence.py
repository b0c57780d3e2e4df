"""Who answers online requests now, by engine and by device: batch work beside it yields.

Presence belongs to the device, not to the engine: an embeddings engine on the same cores slows every online token of
the chat engine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager


class Presence:
    """Counts online requests while they are under way. Event loop only; `on_change` hears every first and last one."""

    def __init__(
        self,
        devices: Mapping[str, frozenset[str]] | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`devices` says on which devices (`cpu`, `cuda:0`) each engine runs; an engine that is not there has one of
        its own, as a remote one has."""
        self._devices = dict(devices or {})
        self._monotonic = monotonic
        self._here: dict[str, int] = {}
        self._elsewhere: dict[str, int] = {}
        self._last_at: dict[str, float] = {}
        self._callbacks: list[Callable[[], None]] = []

    @contextmanager
    def online(self, engine: str) -> Iterator[None]:
        """An online request is on this engine for as long as the context lasts."""
        try:
            self._add(engine, 1)
            yield
        finally:
            self._add(engine, -1)

    def note(self, engine: str, requests: int) -> None:
        """Online requests that reach an engine without passing through this server, as its own metrics tell."""
        before = self.on_engine(engine)
        self._elsewhere[engine] = max(0, requests)
        self._changed(engine, before)

    def on_engine(self, engine: str) -> int:
        return self._here.get(engine, 0) + self._elsewhere.get(engine, 0)

    def beside(self, engine: str) -> int:
        """Online requests on the other engines of this engine's devices."""
        return sum(self.on_engine(other) for other in self._known() if other != engine and self.share(engine, other))

    def on_device_of(self, engine: str) -> int:
        return self.on_engine(engine) + self.beside(engine)

    def anywhere(self) -> int:
        return sum(self.on_engine(engine) for engine in self._known())

    def here(self) -> int:
        """Online requests on devices of this machine: those beside which its disks and cores are shared."""
        return sum(self.on_engine(engine) for engine in self._devices)

    def quiet_seconds(self, engine: str) -> float | None:
        """Since the last online request on the engine's devices ended; 0 while one is present, None before any."""
        if self.on_device_of(engine):
            return 0.0
        ends = [at for other, at in self._last_at.items() if other == engine or self.share(engine, other)]
        return self._monotonic() - max(ends) if ends else None

    def share(self, engine: str, other: str) -> bool:
        """Whether two engines have a device in common."""
        return not self._devices.get(engine, frozenset()).isdisjoint(self._devices.get(other, frozenset()))

    def on_change(self, callback: Callable[[], None]) -> None:
        """`callback` runs when the first online request comes to an engine and when the last one ends."""
        self._callbacks.append(callback)

    def _known(self) -> set[str]:
        return {*self._here, *self._elsewhere}

    def _add(self, engine: str, requests: int) -> None:
        before = self.on_engine(engine)
        self._here[engine] = self._here.get(engine, 0) + requests
        self._changed(engine, before)

    def _changed(self, engine: str, before: int) -> None:
        after = self.on_engine(engine)
        if before or after:
            self._last_at[engine] = self._monotonic()
        if bool(before) != bool(after):
            for callback in self._callbacks:
                callback()
