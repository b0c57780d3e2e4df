"""What is done to an engine's answer before anyone else sees it: OpenAI's shape, its error vocabulary, one line.

vLLM's `model_dump()` prints every field of its own protocol, mostly nulls; OpenAI prints a few nulls that clients read.
Both lists stand here. An answer that was cut off by an abort is not an answer (EngineUnavailable).
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

import msgspec

from engine import responses
from engine.protocol import (
    CHAT_COMPLETIONS,
    COMPLETIONS,
    EMBEDDINGS,
    RERANK,
    RESPONSES,
    EngineResult,
    EngineUnavailable,
    Usage,
)

Fields = dict[str, msgspec.Raw]

_EXTRAS = frozenset(
    {
        "stop_reason",
        "token_ids",
        "routed_experts",
        "prompt_logprobs",
        "prompt_token_ids",
        "prompt_text",
        "kv_transfer_params",
        "ec_transfer_params",
        "metrics",
    }
)
_NULL = msgspec.Raw(b"null")
_MESSAGE_NULLS = {"content": _NULL, "refusal": _NULL}
_EMPTY_LISTS = (b"[]", b"null")

_fields_decoder = msgspec.json.Decoder(Fields)
_choices_decoder = msgspec.json.Decoder(list[Fields])
_encoder = msgspec.json.Encoder()


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = 0
    completion_tokens: int | None = 0
    total_tokens: int | None = 0
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: dict[str, object] | None = None


def shape_answer(endpoint: str, body: bytes) -> EngineResult:
    """A 2xx answer as one line in OpenAI's shape with its usage; raises EngineUnavailable for an aborted one."""
    try:
        fields = _fields_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EngineUnavailable(f"the engine's answer is not a JSON object: {error}") from None
    if endpoint == RESPONSES:
        response, tokens = responses.shaped(fields)
        return EngineResult(int(HTTPStatus.OK), _one_line(response), tokens)
    shaped = _without_clutter(fields)
    usage = _read_usage(fields)
    if endpoint in (CHAT_COMPLETIONS, COMPLETIONS):
        shaped["choices"] = [_shape_choice(endpoint, choice) for choice in _read_choices(fields)]
        shaped["usage"] = _generation_usage(usage)
    elif "usage" in fields:
        shaped["usage"] = _pooling_usage(usage)
    return EngineResult(int(HTTPStatus.OK), _one_line(shaped), _plain_usage(usage))


def _read_choices(fields: Fields) -> list[Fields]:
    try:
        choices = _choices_decoder.decode(fields.get("choices", b"[]"))
    except msgspec.DecodeError as error:
        raise EngineUnavailable(f"the engine's answer has no readable choices: {error}") from None
    if not choices:
        raise EngineUnavailable("the engine's answer has no choices")
    return choices


def _shape_choice(endpoint: str, choice: Fields) -> dict[str, object]:
    finish_reason = bytes(choice.get("finish_reason", b"null"))
    if finish_reason in (b"null", b'"abort"'):
        raise EngineUnavailable("aborted: the engine ended a generation before it was complete")
    shaped = _without_clutter(choice)
    shaped["logprobs"] = choice.get("logprobs", _NULL)
    if endpoint == CHAT_COMPLETIONS and "message" in choice:
        shaped["message"] = _shape_message(_fields_decoder.decode(choice["message"]))
    return shaped


def _shape_message(message: Fields) -> dict[str, object]:
    shaped: dict[str, object] = {**_without_clutter(message)}
    for name, default in _MESSAGE_NULLS.items():
        shaped[name] = message.get(name, default)
    if bytes(message.get("tool_calls", b"null")) in _EMPTY_LISTS:
        shaped.pop("tool_calls", None)
    return shaped


def _without_clutter(fields: Fields) -> dict[str, object]:
    return {name: value for name, value in fields.items() if name not in _EXTRAS and bytes(value) != b"null"}


def _read_usage(fields: Fields) -> _Usage:
    raw = fields.get("usage")
    if raw is None or bytes(raw) == b"null":
        return _Usage()
    try:
        return msgspec.json.decode(raw, type=_Usage)
    except msgspec.DecodeError:
        return _Usage()  # a server of another make; its answer still counts, its tokens cannot be


def _cached(usage: _Usage) -> int:
    details = usage.prompt_tokens_details
    return (details.cached_tokens or 0) if details is not None else 0


def _generation_usage(usage: _Usage) -> dict[str, object]:
    prompt, completion = usage.prompt_tokens or 0, usage.completion_tokens or 0
    completion_details = {name: value for name, value in (usage.completion_tokens_details or {}).items() if value}
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": _cached(usage)},
        "completion_tokens_details": {"reasoning_tokens": 0, **completion_details},
    }


def _pooling_usage(usage: _Usage) -> dict[str, int]:
    prompt = usage.prompt_tokens or usage.total_tokens or 0
    return {"prompt_tokens": prompt, "total_tokens": prompt}


def _plain_usage(usage: _Usage) -> Usage:
    prompt = usage.prompt_tokens or (0 if usage.completion_tokens else usage.total_tokens or 0)
    return Usage(prompt, _cached(usage), usage.completion_tokens or 0)


def _one_line(fields: Mapping[str, object]) -> bytes:
    line = _encoder.encode(fields)
    return msgspec.json.format(line, indent=-1) if b"\n" in line else line


_CONTEXT_MARKS = (
    "maximum context length",
    "maximum model length",
    "max_model_len",
    "context length",
    "context window",
    "context size",
)
_PROMPT_PARAMS = {
    CHAT_COMPLETIONS: "messages",
    COMPLETIONS: "prompt",
    EMBEDDINGS: "input",
    RERANK: "query",
    RESPONSES: "input",
}
_MESSAGE_CHARS_MAX = 4_000


def shape_error(status_code: int, body: bytes, endpoint: str = "") -> EngineResult:
    """A 4xx or 5xx answer in OpenAI's envelope, whatever form the engine's own error had."""
    found = _find_error(body)
    message = _text(found.get("message")) or _status_phrase(status_code)
    code, param = found.get("code"), found.get("param")
    if not isinstance(code, str) or code.isdigit():
        code = None
    lowered = message.lower()
    if code is None and status_code == HTTPStatus.BAD_REQUEST and any(mark in lowered for mark in _CONTEXT_MARKS):
        code, param = "context_length_exceeded", _PROMPT_PARAMS.get(endpoint, param)
    elif code is None and status_code == HTTPStatus.NOT_FOUND and "model" in lowered:
        code, param = "model_not_found", param or "model"
    return error_result(status_code, message, code=code, param=_text(param))


def error_result(status_code: int, message: str, *, code: str | None = None, param: str | None = None) -> EngineResult:
    """An error answer of our own making."""
    kind = "server_error" if status_code >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
    error = {"message": message[:_MESSAGE_CHARS_MAX], "type": kind, "param": param, "code": code}
    return EngineResult(int(status_code), _encoder.encode({"error": error}))


def _find_error(body: bytes) -> Mapping[str, object]:
    """The error's fields: `{"error": {...}}`, vLLM's older flat form, FastAPI's `detail`, or bare text."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {"message": body[:_MESSAGE_CHARS_MAX].decode(errors="replace").strip()}
    if isinstance(found, dict):
        inner = found.get("error", found)
        if isinstance(inner, dict):
            return inner if "message" in inner else {"message": _text(inner.get("detail"))}
        return {"message": _text(inner)}
    return {"message": _text(found)}


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value or None
    return _encoder.encode(value).decode()


def _status_phrase(status_code: int) -> str:
    try:
        return f"The engine answered {status_code} {HTTPStatus(status_code).phrase}."
    except ValueError:
        return f"The engine answered with status {status_code}."
