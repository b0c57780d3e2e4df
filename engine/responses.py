"""`/v1/responses`: what is refused of a request, and the shape of an answer.

Nothing is stored: a response is its answer, once. So there is no background work to ask for later and no former
response to go on from.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from engine.protocol import EngineUnavailable, Usage

Fields = Mapping[str, msgspec.Raw]

DONE_STATUSES = (b'"completed"', b'"incomplete"')
"""`incomplete` is an answer that reached `max_output_tokens`. All other statuses mean that it was broken off."""

_NULL = msgspec.Raw(b"null")
_KEPT_NULLS = ("error", "incomplete_details", "instructions", "metadata")
_EXTRAS = frozenset({"kv_transfer_params", "ec_transfer_params", "input_messages", "output_messages", "metrics"})
_REFUSED = {
    "background": "this server answers at once, or in a batch",
    "previous_response_id": "this server stores no responses: send the whole conversation as 'input'",
    "conversation": "this server stores no conversations: send the whole conversation as 'input'",
}


class _Details(msgspec.Struct):
    cached_tokens: int | None = 0


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: int | None = 0


class _Usage(msgspec.Struct):
    input_tokens: int | None = 0
    output_tokens: int | None = 0
    input_tokens_details: _Details | None = None
    output_tokens_details: _OutputDetails | None = None


def refused_field(fields: Fields) -> tuple[str, str] | None:
    """The first field that asks for what a server without a memory cannot do, and why."""
    for name, why in _REFUSED.items():
        if bytes(fields.get(name, _NULL)) not in (b"null", b"false"):
            return name, why
    return None


def shaped(fields: Fields) -> tuple[dict[str, object], Usage]:
    """An answer in OpenAI's shape; EngineUnavailable for one that was broken off."""
    status = bytes(fields.get("status", _NULL))
    if status not in DONE_STATUSES:
        raise EngineUnavailable(f"aborted: the engine's response has the status {status.decode(errors='replace')}")
    kept: dict[str, object] = {
        name: value for name, value in fields.items() if name not in _EXTRAS and bytes(value) != b"null"
    }
    for name in _KEPT_NULLS:
        kept.setdefault(name, _NULL)
    usage = _read_usage(fields)
    kept["usage"] = _usage_object(usage)
    return kept, _plain(usage)


def _read_usage(fields: Fields) -> _Usage:
    try:
        return msgspec.json.decode(fields.get("usage", b"{}"), type=_Usage | None) or _Usage()
    except msgspec.DecodeError:
        return _Usage()  # a server of another make; its answer still counts, its tokens cannot be


def _plain(usage: _Usage) -> Usage:
    cached = usage.input_tokens_details.cached_tokens if usage.input_tokens_details else 0
    return Usage(usage.input_tokens or 0, cached or 0, usage.output_tokens or 0)


def _usage_object(usage: _Usage) -> dict[str, object]:
    plain = _plain(usage)
    reasoning = usage.output_tokens_details.reasoning_tokens if usage.output_tokens_details else 0
    return {
        "input_tokens": plain.prompt_tokens,
        "input_tokens_details": {"cached_tokens": plain.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": plain.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": reasoning or 0},
        "total_tokens": plain.prompt_tokens + plain.completion_tokens,
    }
