"""Which of the requests in flight are probably still having their prompts read. Pure.

An answer comes whole, so nobody says when a prompt was read: its time is estimated from answers that came before.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

WEIGHT = 0.1
PREFILL_PART_MIN = 0.3
"""Below this part of an answer's time the rest is an error of the estimate of its decode steps."""


@dataclass(slots=True)
class Prefills:
    """`ms_per_token` of a prompt's estimated tokens: whatever part of them was cached makes the estimate smaller."""

    ms_per_token: float = 0.0
    _until: list[float] = field(default_factory=list)

    def started(self, tokens: int, *, step_ms: float, now: float) -> float:
        """A prompt was sent; until when it is probably read."""
        self._forget_read(now)
        read_at = now + max(step_ms, tokens * self.ms_per_token) / 1000
        heapq.heappush(self._until, read_at)
        return read_at

    def unfinished(self, *, now: float) -> int:
        self._forget_read(now)
        return len(self._until)

    def free_at(self, prefills_max: int, *, now: float) -> float:
        """When the next prompt may be sent; `now` or before: at once."""
        over = self.unfinished(now=now) - prefills_max
        return now if over < 0 else heapq.nsmallest(over + 1, self._until)[over]

    def _forget_read(self, now: float) -> None:
        while self._until and self._until[0] <= now:
            heapq.heappop(self._until)

    def answered(self, tokens: int, *, seconds: float, output_tokens: float, step_ms: float) -> None:
        """An answer of `output_tokens` decode steps took so long."""
        if tokens <= 0 or seconds <= 0 or step_ms <= 0:
            return
        prefill_ms = seconds * 1000 - output_tokens * step_ms
        if prefill_ms >= PREFILL_PART_MIN * seconds * 1000:
            self.ms_per_token += WEIGHT * (prefill_ms / tokens - self.ms_per_token)
