"""How much of an engine's memory batch requests in flight may be predicted to fill. Pure.

Predictions err. An engine that has no room left for the next token pushes a request out and computes it again later:
a few are cheaper than an engine that is half empty, many are not. So the share falls at each look that finds some, and
comes back slowly.
"""

from __future__ import annotations

from dataclasses import dataclass

SHARE_MIN = 0.25
CUT = 0.9
REST_SECONDS = 2.0
"""What is in flight ends before a cut is felt: another one waits for so long."""

RISE_PER_SECOND = 0.005


@dataclass(slots=True)
class KvShare:
    share: float = 1.0
    _pushed_out: int | None = None
    _at: float = 0.0
    _cut_at: float = float("-inf")

    def see(self, pushed_out: int, *, now: float, is_ours: bool = True) -> bool:
        """`pushed_out` counts the engine's requests that lost their memory since its start; whether the share has
        fallen. `is_ours` False: it was for somebody else's sake, which says nothing of predictions."""
        before, self._pushed_out = self._pushed_out, pushed_out
        seconds, self._at = max(0.0, now - self._at), now
        if before is None or pushed_out < before:  # the first look at an engine, or at its next life
            return False
        if pushed_out == before or not is_ours:
            self.share = min(1.0, self.share + RISE_PER_SECOND * seconds)
            return False
        if now < self._cut_at + REST_SECONDS:
            return False
        self._cut_at = now
        self.share = max(SHARE_MIN, self.share * CUT)
        return True
