"""How much may be in flight on one engine at once, counted in sub-requests and in KV tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from engine.protocol import EngineLimits

SLICES_IN_FLIGHT_MIN = 4
"""A slice takes at most this part of a budget, so that the engine has work while the next one starts."""


@dataclass(frozen=True, slots=True)
class Budget:
    requests_max: int
    tokens_max: int | None


@dataclass(frozen=True, slots=True)
class Cost:
    """`prompt_tokens` are the part of `tokens` that is read before anything is generated; 0 where that is not known.

    `prefix_tokens` of them are a prefix that others in flight may share, told by the number `prefix` (0: none): an
    engine holds it once for all of them.
    """

    requests: int
    tokens: int
    prompt_tokens: int = 0
    prefix: int = 0
    prefix_tokens: int = 0

    @property
    def read_tokens(self) -> int:
        return self.prompt_tokens or self.tokens


@dataclass(slots=True)
class Shared:
    """A prefix in flight: counted once, as long as the first of the lines that hold it said that it is."""

    tokens: int
    lines: int = 0


@dataclass(slots=True)
class Inflight:
    """What one engine has in flight for us."""

    lines: int = 0
    requests: int = 0
    tokens: int = 0
    shared: dict[int, Shared] = field(default_factory=dict)

    def take(self, cost: Cost) -> None:
        self.lines += 1
        self.requests += cost.requests
        self.tokens += self.more_tokens(cost)
        if cost.prefix:
            self.shared.setdefault(cost.prefix, Shared(cost.prefix_tokens)).lines += 1

    def give_back(self, cost: Cost) -> None:
        self.lines -= 1
        self.requests -= cost.requests
        self.tokens -= self.more_tokens(cost)
        if cost.prefix:
            shared = self.shared[cost.prefix]
            shared.lines -= 1
            if not shared.lines:
                self.tokens -= shared.tokens
                del self.shared[cost.prefix]

    def more_tokens(self, cost: Cost) -> int:
        """What a line adds: all but the part of its prefix that is held already."""
        shared = self.shared.get(cost.prefix) if cost.prefix else None
        return cost.tokens if shared is None else cost.tokens - min(cost.prefix_tokens, shared.tokens)


def budget_of(limits: EngineLimits, *, requests_multiple: float, tokens_multiple: float) -> Budget:
    tokens = limits.inflight_tokens_max
    return Budget(
        max(1, int(limits.inflight_requests_max * requests_multiple)),
        None if tokens is None else max(1, int(tokens * tokens_multiple)),
    )


def slice_size(budget: Budget, cost: Cost, *, sub_requests_max: int) -> int:
    """Sub-requests of one slice of a line; all of them when the line may run as one request."""
    tokens_max = budget.tokens_max
    is_small = cost.requests <= min(sub_requests_max, budget.requests_max)
    if is_small and (tokens_max is None or cost.tokens <= tokens_max):
        return cost.requests
    size = min(sub_requests_max, budget.requests_max // SLICES_IN_FLIGHT_MIN)
    if tokens_max is not None:
        tokens_each = math.ceil(cost.tokens / cost.requests)
        size = min(size, tokens_max // SLICES_IN_FLIGHT_MIN // tokens_each)
    return max(1, size)


def fits(budget: Budget, inflight: Inflight, cost: Cost) -> bool:
    """A line larger than the whole budget fits an engine that has nothing else in flight: it runs alone, not never."""
    if inflight.lines == 0:
        return True
    if inflight.requests + cost.requests > budget.requests_max:
        return False
    return budget.tokens_max is None or inflight.tokens + inflight.more_tokens(cost) <= budget.tokens_max
