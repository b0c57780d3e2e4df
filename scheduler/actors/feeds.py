"""Looks at how the engines are fed, and shows it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

from engine.feeding import Feed
from engine.protocol import Engine
from engine.registry import Registry
from scheduler import metrics
from scheduler.actors.waiting import Ended
from scheduler.facts.work import ModelKey


class Feeds:
    """Event loop only: `cpu_seconds` is the CPU time of the thread that calls it."""

    def __init__(
        self,
        registry: Registry,
        *,
        monotonic: Callable[[], float],
        cpu_seconds: Callable[[], float] = time.thread_time,
    ) -> None:
        self._registry = registry
        self._monotonic = monotonic
        self._cpu_seconds = cpu_seconds
        self._lines = 0

    def look(self, ended: Mapping[ModelKey, Ended]) -> None:
        """`ended` since the last look, of each model that had anything to do."""
        self._lines += sum(one.lines for one in ended.values())
        wanted = {key for key, one in ended.items() if one.is_full}

        def is_wanted(engine: Engine) -> bool:
            return any(ModelKey(model.id, model.revision) in wanted for model in engine.models())

        feeding, now = self._registry.feeding, self._monotonic()
        feeding.look(self._registry.engines(), is_wanted=is_wanted, now=now)
        feeding.look_at_loop(cpu_seconds=self._cpu_seconds(), lines=self._lines, now=now)

    def show(self) -> None:
        for feed in self._registry.feeds():
            _show(feed)


def _show(feed: Feed) -> None:
    metrics.FRONT_SHARE.labels(feed.engine).set(_known(feed.front_share))
    metrics.FRONT_MS.labels(feed.engine).set(_known(feed.front_ms))
    if feed.slots is not None or feed.busy_share is not None:
        metrics.ENGINE_BUSY_SHARE.labels(feed.engine).set(_known(feed.busy_share))
        metrics.ENGINE_RUNNING.labels(feed.engine).set(_known(feed.running))


def _known(value: float | None) -> float:
    return math.nan if value is None else value
