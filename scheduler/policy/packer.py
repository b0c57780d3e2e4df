"""How much may be in flight on one engine at once, counted in sub-requests and in KV tokens."""

from __future__ import annotations

from dataclasses import dataclass

from engine.protocol import EngineLimits


@dataclass(frozen=True, slots=True)
class Budget:
    requests_max: int
    tokens_max: int | None


@dataclass(frozen=True, slots=True)
class Cost:
    requests: int
    tokens: int


@dataclass(slots=True)
class Inflight:
    """What one engine has in flight for us."""

    lines: int = 0
    requests: int = 0
    tokens: int = 0

    def take(self, cost: Cost) -> None:
        self.lines += 1
        self.requests += cost.requests
        self.tokens += cost.tokens

    def give_back(self, cost: Cost) -> None:
        self.lines -= 1
        self.requests -= cost.requests
        self.tokens -= cost.tokens


def budget_of(limits: EngineLimits, *, requests_multiple: float, tokens_multiple: float) -> Budget:
    tokens = limits.inflight_tokens_max
    return Budget(
        max(1, int(limits.inflight_requests_max * requests_multiple)),
        None if tokens is None else max(1, int(tokens * tokens_multiple)),
    )


def fits(budget: Budget, inflight: Inflight, cost: Cost) -> bool:
    """A line larger than the whole budget fits an engine that has nothing else in flight: it runs alone, not never."""
    if inflight.lines == 0:
        return True
    if inflight.requests + cost.requests > budget.requests_max:
        return False
    return budget.tokens_max is None or inflight.tokens + cost.tokens <= budget.tokens_max
