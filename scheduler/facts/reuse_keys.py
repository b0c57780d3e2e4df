"""Whether a request would get the same answer again, and the key of that answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

import msgspec

from engine.bodies import ELSEWHERE_STRIPPED, STRIPPED_FIELDS
from engine.protocol import GENERATE_ENDPOINTS, POOLING_ENDPOINTS, RESPONSES

BODY_BYTES_MAX: Final = 1024 * 1024
"""Longer bodies are not looked into: while one is decoded nothing else of this process runs."""

_SAYS_NOTHING: Final = frozenset({"service_tier", "user", "safety_identifier", "prompt_cache_key"})
"""Fields that say who asks, or how to treat the request, and nothing of the answer. `/v1/responses` gives them back in
its answer: there they count."""

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder(order="sorted").encode
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeError, RecursionError, OverflowError, TypeError)


class Hash(Protocol):
    def copy(self) -> Hash: ...

    def update(self, data: bytes, /) -> None: ...

    def digest(self) -> bytes: ...


class ReuseKeys:
    """Keys of the lines of one batch, model and endpoint, by `start`, the hash of all that is common to them."""

    def __init__(self, start: Hash, endpoint: str) -> None:
        self._start = start
        self._endpoint = endpoint

    def of(self, body: bytes) -> bytes | None:
        """None for a request whose answer must not be given to another."""
        text = canonical(body, self._endpoint)
        if text is None:
            return None
        state = self._start.copy()
        state.update(text)
        return state.digest()


def canonical(body: bytes, endpoint: str) -> bytes | None:
    """One text for all ways to write the same request; None when its answer may differ from one time to the next, or
    when it cannot be read."""
    if len(body) > BODY_BYTES_MAX:
        return None
    try:
        fields = _decode(body)
        if not isinstance(fields, dict) or not _is_repeatable(fields, endpoint):
            return None
        text = _encode({name: value for name, value in fields.items() if not _is_idle(name, endpoint)})
    except _UNREADABLE:
        return None
    return None if b'_url"' in text and _looks_elsewhere(fields) else text


def _is_repeatable(fields: Mapping[str, Any], endpoint: str) -> bool:
    """Greedy or seeded; an embedding, a score and a ranking always are."""
    if endpoint in POOLING_ENDPOINTS:
        return True
    if endpoint not in GENERATE_ENDPOINTS:
        return False
    if endpoint == RESPONSES and not _has_own_tools_only(fields.get("tools")):
        return False
    temperature, seed = fields.get("temperature"), fields.get("seed")
    is_greedy = isinstance(temperature, int | float) and not isinstance(temperature, bool) and temperature == 0
    return is_greedy or (isinstance(seed, int) and not isinstance(seed, bool))


def _has_own_tools_only(tools: object) -> bool:
    """Other tools ask the world outside, which changes."""
    if tools is None:
        return True
    return isinstance(tools, list) and all(isinstance(one, dict) and one.get("type") == "function" for one in tools)


def _is_idle(name: str, endpoint: str) -> bool:
    """No engine sees the field, or it has no part in the answer."""
    if name in STRIPPED_FIELDS or (name in ELSEWHERE_STRIPPED and endpoint not in ELSEWHERE_STRIPPED[name]):
        return True
    return name in _SAYS_NOTHING and endpoint != RESPONSES


def _looks_elsewhere(fields: Mapping[str, Any]) -> bool:
    """Pictures and sounds that the engine fetches: what is there may change."""
    left: list[Any] = [fields]
    while left:
        value = left.pop()
        if isinstance(value, list):
            left += value
        elif isinstance(value, dict):
            for name, inner in value.items():
                if name.endswith("_url") and not _is_inline(inner):
                    return True
                left.append(inner)
    return False


def _is_inline(value: object) -> bool:
    if isinstance(value, dict):
        value = value.get("url")
    return value is None or (isinstance(value, str) and value.startswith("data:"))
