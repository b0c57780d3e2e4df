"""What others bound in-flight batch work by, as baselines: a fixed number, and additive increase, multiplicative
decrease on queue length and KV use (the law of published gateways, once a second)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from scheduler.actors.throttle import Governor
from scheduler.policy.allowance import Allowance
from scheduler.policy.pressure import Signs

AIMD_SECONDS = 1.0
AIMD_START = 16
KV_LOW, KV_HIGH = 0.6, 0.85


def static(cap: int) -> Governor:
    return lambda _signs: Allowance(requests_max=cap)


@dataclass(slots=True)
class Aimd:
    """Halved while online requests queue or the KV cache fills up, one more while it is free. In between it stays."""

    kv_use: Callable[[], float]
    cap: int = AIMD_START
    at: float | None = None

    def __call__(self, signs: Signs) -> Allowance:
        if self.at is None or signs.now - self.at >= AIMD_SECONDS:
            self.at = signs.now
            self.cap = self._moved(signs)
        return Allowance(requests_max=self.cap)

    def _moved(self, signs: Signs) -> int:
        kv_use = self.kv_use()
        if (signs.waiting > 0 and signs.others > 0) or kv_use > KV_HIGH:
            return max(1, self.cap // 2)
        if kv_use < KV_LOW:
            return min(signs.room, self.cap + 1)
        return self.cap
