"""Which of several engines takes the next request. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import xxhash

from engine.protocol import Engine

HOME_FULLER_MAX = 0.25
"""A prefix goes home as long as its engine is by no more than this fuller than the emptiest one."""


def fullness(engine: Engine) -> float:
    """Requests on the engine as a share of what it can take; KV use counts when it is the tighter bound."""
    load = engine.load()
    return max((load.running + load.waiting) / max(engine.limits().inflight_requests_max, 1), load.kv_use)


def least_loaded(candidates: Sequence[Engine], last_turn: Mapping[str, int]) -> Engine | None:
    """The emptiest engine; among equals the one whose last turn (a counter by engine name) is longest ago."""
    return min(candidates, key=lambda engine: (fullness(engine), last_turn.get(engine.name, 0)), default=None)


def home_of(prefix: int, engines: Sequence[str]) -> str:
    """The engine, by name, that requests with this prefix belong to: each engine gets as many prefixes, whoever asks
    gets the same answer, and one engine more or fewer moves only its own share of them. Never empty."""
    return max(engines, key=lambda name: (xxhash.xxh3_64_intdigest(name.encode(), seed=prefix), name))


def nearest(candidates: Sequence[Engine], prefix: int, last_turn: Mapping[str, int]) -> Engine | None:
    """The prefix's home, which reads it once for all, unless it is much fuller than the emptiest: then that one."""
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    name = home_of(prefix, [engine.name for engine in candidates])
    home = next(engine for engine in candidates if engine.name == name)
    emptiest = least_loaded(candidates, last_turn)
    if emptiest is None or fullness(home) <= fullness(emptiest) + HOME_FULLER_MAX:
        return home
    return emptiest
