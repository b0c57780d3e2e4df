"""Which of several engines takes the next request. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from engine.protocol import Engine


def fullness(engine: Engine) -> float:
    """Requests on the engine as a share of what it can take; KV use counts when it is the tighter bound."""
    load = engine.load()
    return max((load.running + load.waiting) / max(engine.limits().inflight_requests_max, 1), load.kv_use)


def least_loaded(candidates: Sequence[Engine], last_turn: Mapping[str, int]) -> Engine | None:
    """The emptiest engine; among equals the one whose last turn (a counter by engine name) is longest ago."""
    return min(candidates, key=lambda engine: (fullness(engine), last_turn.get(engine.name, 0)), default=None)
