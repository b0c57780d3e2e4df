"""What online requests wait for, by engine: first tokens and the gaps between tokens, as their clients see them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

GAPS_KEPT = 256
TTFTS_KEPT = 64
KEPT_SECONDS = 60.0
"""What was felt longer ago says nothing of now."""


@dataclass(slots=True)
class _Times:
    """(monotonic seconds, milliseconds), newest last."""

    gaps: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=GAPS_KEPT))
    ttfts: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=TTFTS_KEPT))


class OnlineMeter:
    """Fed by whoever streams to clients. Event loop only; remembers a bounded number of times, for a minute."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._times: dict[str, _Times] = {}

    def first_token(self, engine: str, ms: float) -> None:
        self._of(engine).ttfts.append((self._monotonic(), ms))

    def gap(self, engine: str, ms: float) -> None:
        self._of(engine).gaps.append((self._monotonic(), ms))

    def gaps_ms(self, engine: str, *, since: float = 0.0) -> list[float]:
        """Gaps between tokens that ended after `since` (monotonic)."""
        return self._recent(self._of(engine).gaps, since)

    def ttfts_ms(self, engine: str, *, since: float = 0.0) -> list[float]:
        return self._recent(self._of(engine).ttfts, since)

    def _recent(self, times: deque[tuple[float, float]], since: float) -> list[float]:
        since = max(since, self._monotonic() - KEPT_SECONDS)
        return [ms for at, ms in times if at > since]

    def _of(self, engine: str) -> _Times:
        return self._times.setdefault(engine, _Times())
