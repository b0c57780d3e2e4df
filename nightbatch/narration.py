"""Tells the log when engines start and are ready, and after how long. Their deaths are the supervisor's to tell, and
who leaves is told by who sends it away."""

from __future__ import annotations

import logging
from collections.abc import Callable

from engine.protocol import EngineState, EngineStatus
from engine.registry import Registry

log = logging.getLogger(__name__)


class EngineNarrator:
    """Call `look` whenever the registry says that something changed; it writes one record for each new state."""

    def __init__(self, registry: Registry, now: Callable[[], float]) -> None:
        self._registry = registry
        self._now = now
        self._known = {engine.name: engine.status() for engine in registry.engines()}
        self._left_rest_at: dict[str, float] = {}

    def look(self) -> None:
        for engine in self._registry.engines():
            status, before = engine.status(), self._known[engine.name]
            if (before.state, before.incarnation) != (status.state, status.incarnation):
                self._known[engine.name] = status
                self._tell(engine.name, status)

    def _tell(self, name: str, status: EngineStatus) -> None:
        extra = {"engine": name}
        if status.state is EngineState.READY:
            seconds = self._now() - self._left_rest_at.pop(name, self._now())
            log.info("engine %s is ready after %.0f s", name, seconds, extra=extra)
            return
        if status.state is EngineState.AWAY:  # how long it is away is no time that its start takes
            self._left_rest_at.pop(name, None)
            return
        self._left_rest_at.setdefault(name, self._now())
        if status.state is EngineState.STARTING:
            log.info("engine %s is starting", name, extra=extra)
