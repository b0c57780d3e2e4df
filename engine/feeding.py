"""Whether engines are fed: which part of its time an engine had something to run while lines waited, and what the front
before it costs. Times are seconds on a monotonic clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from engine.protocol import Engine, EngineMeters, Metered

WINDOW_SECONDS = 60.0
FRONT_SHARE_MAX = 0.6
"""Of a core. A front's event loop is one thread: from here on the engine begins to wait for it."""

ANSWERS_MIN = 20
"""Fewer in the window say nothing of what a request costs."""

SECONDS_MIN = 3.0


@dataclass(frozen=True, slots=True)
class Feed:
    """One engine in the last minute. None: it cannot tell, or nothing waited for it.

    `busy_share` of the time in which lines waited it had something to run; `running` requests at once, on average.
    `front_share` is of a core, and `front_ms` of CPU what one request costs it.
    """

    engine: str
    busy_share: float | None = None
    running: float | None = None
    slots: int | None = None
    front_share: float | None = None
    front_ms: float | None = None
    requests_per_s: float | None = None
    warning: str | None = None


@dataclass(frozen=True, slots=True)
class _Sample:
    at: float
    meters: EngineMeters
    is_wanted: bool


@dataclass(slots=True)
class FeedMeter:
    """Fed with an engine's totals; `is_wanted`: lines wait for the engine now."""

    _samples: deque[_Sample] = field(default_factory=deque)

    def add(self, now: float, meters: EngineMeters, *, is_wanted: bool) -> None:
        if self._samples and _is_new_life(self._samples[-1].meters, meters):
            self._samples.clear()
        self._samples.append(_Sample(now, meters, is_wanted))
        while len(self._samples) > 2 and self._samples[1].at <= now - WINDOW_SECONDS:
            self._samples.popleft()

    def feed(self, engine: str, *, slots: int | None = None) -> Feed:
        wanted = busy = running = 0.0
        previous: _Sample | None = None
        for sample in self._samples:
            if previous is not None and previous.is_wanted and sample.is_wanted:
                wanted += sample.at - previous.at
                busy += sample.meters.busy_seconds - previous.meters.busy_seconds
                running += sample.meters.running_seconds - previous.meters.running_seconds
            previous = sample
        is_known = wanted >= SECONDS_MIN
        share, cost_ms, rate = self.front()
        return Feed(
            engine,
            busy_share=min(1.0, busy / wanted) if is_known else None,
            running=running / wanted if is_known else None,
            slots=slots,
            front_share=share,
            front_ms=cost_ms,
            requests_per_s=rate,
            warning=_warning(f"The front of engine {engine}", share, cost_ms, rate),
        )

    def front(self) -> tuple[float | None, float | None, float | None]:
        """Share of a core, CPU of a request in ms, and requests per second: in the time in which any were answered."""
        cpu = seconds = 0.0
        answers = 0
        previous: _Sample | None = None
        for sample in self._samples:
            if previous is not None and sample.meters.answers > previous.meters.answers:
                seconds += sample.at - previous.at
                answers += sample.meters.answers - previous.meters.answers
                cpu += (sample.meters.front_cpu_seconds or 0.0) - (previous.meters.front_cpu_seconds or 0.0)
            previous = sample
        if previous is None or previous.meters.front_cpu_seconds is None:
            return None, None, None
        if answers < ANSWERS_MIN or seconds < SECONDS_MIN:
            return None, None, None
        return cpu / seconds, cpu * 1000 / answers, answers / seconds


def _is_new_life(before: EngineMeters, after: EngineMeters) -> bool:
    return after.busy_seconds < before.busy_seconds or after.answers < before.answers


def _warning(who: str, share: float | None, cost_ms: float | None, rate: float | None) -> str | None:
    if share is None or cost_ms is None or rate is None or share <= FRONT_SHARE_MAX:
        return None
    return (
        f"{who} uses {share:.0%} of a core: {cost_ms:.1f} ms for each of {rate:.0f} requests/s. From about "
        f"{1000 / cost_ms:.0f} requests/s on it has no time left, whatever the device can do: give the model more "
        f"engines (`replicas`), or ask for more with each request (`n`, arrays of prompts or inputs)."
    )


class Feeding:
    """All engines of a registry, and this process's event loop before them. Event loop only."""

    def __init__(self) -> None:
        self._meters: dict[str, FeedMeter] = {}
        self._loop = FeedMeter()

    def meter(self, engine: str) -> FeedMeter:
        return self._meters.setdefault(engine, FeedMeter())

    def look(self, engines: Iterable[Engine], *, is_wanted: Callable[[Engine], bool], now: float) -> None:
        for engine in engines:
            meters = engine.meters() if isinstance(engine, Metered) else None
            if meters is not None:
                self.meter(engine.name).add(now, meters, is_wanted=is_wanted(engine))

    def look_at_loop(self, *, cpu_seconds: float, lines: int, now: float) -> None:
        """CPU time of the event loop so far, and lines that it has dealt with."""
        meters = EngineMeters(0.0, 0.0, front_cpu_seconds=cpu_seconds, answers=lines)
        self._loop.add(now, meters, is_wanted=False)

    def feeds(self, engines: Iterable[Engine]) -> list[Feed]:
        return [
            self._meters.get(engine.name, FeedMeter()).feed(engine.name, slots=engine.limits().slots)
            for engine in engines
        ]

    def loop(self) -> Feed:
        """This process's event loop, before all engines."""
        share, cost_ms, rate = self._loop.front()
        warning = None
        if share is not None and cost_ms is not None and rate is not None and share > FRONT_SHARE_MAX:
            warning = (
                f"The server's event loop uses {share:.0%} of a core: {cost_ms:.2f} ms for each of {rate:.0f} lines/s. "
                f"It bounds all engines together at about {1000 / cost_ms:.0f} lines/s."
            )
        return Feed("server", front_share=share, front_ms=cost_ms, requests_per_s=rate, warning=warning)
