"""When the tokens of one stream came: what its client waited for."""

from __future__ import annotations

import time
from collections.abc import Callable

from engine.online_meter import OnlineMeter
from server import metrics

DATA = b"data: {"
NO_CHOICES = b'"choices":[]'
"""The frame that only counts tokens, after the last of them."""


class TokenTimes:
    """`came` hears of each frame when it comes from the engine, `sent` when the client has taken it: the time in which
    a slow client takes a frame is no gap of the engine's."""

    def __init__(
        self,
        meter: OnlineMeter,
        *,
        engine: str,
        endpoint: str,
        started: float,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._meter = meter
        self._engine = engine
        self._endpoint = endpoint
        self._started = started
        self._clock = clock
        self._free_at: float | None = None
        self._is_token = False

    def came(self, frame: bytes) -> None:
        self._is_token = has_token(frame)
        if not self._is_token:
            return
        now = self._clock()
        if self._free_at is None:
            metrics.online_ttft_seconds.labels(self._endpoint).observe(now - self._started)
            self._meter.first_token(self._engine, (now - self._started) * 1000)
            self._free_at = now
        else:
            metrics.online_itl_seconds.labels(self._endpoint).observe(now - self._free_at)
            self._meter.gap(self._engine, (now - self._free_at) * 1000)

    def sent(self) -> None:
        if self._is_token:
            self._free_at = self._clock()


def has_token(frame: bytes) -> bool:
    """Not the end, not the usage, and not the opening of a chat, which may come before anything was computed."""
    if not frame.startswith(DATA) or NO_CHOICES in frame:
        return False
    return not (b'"role":"assistant"' in frame and (b'"content":""' in frame or b'"content":null' in frame))
