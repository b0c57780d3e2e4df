"""One line of a result file, whoever wrote it: OpenAI, Azure, Nightbatch, vLLM's run-batch, Anthropic.

All but the last agree on `custom_id` and `response.body`. They differ in where a failure stands: OpenAI and Nightbatch
put it into the body beside its status or into `error`, run-batch puts an object or a bare text into `error`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]

CODE_CHARS_MAX: Final = 80
_NOT_JSON: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Form(StrEnum):
    TEXT = "text"
    VECTORS = "vectors"
    OTHER = "other"
    """A body that is none of the known ones: it is compared as JSON."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`text` is the first choice's. `error` is set for a line that was not answered with 2xx."""

    custom_id: str
    form: Form = Form.OTHER
    text: str = ""
    calls: tuple[str, ...] = ()
    """Tool calls, each as `name(arguments)` with the arguments' keys in order."""

    vectors: tuple[Vector, ...] = ()
    body: Any = None
    finish_reason: str = ""
    model: str = ""
    prompt_tokens: int = 0
    output_tokens: int = 0
    error: str | None = None


class NotAResult(ValueError):
    """The line is no result line; the message says why."""


class _Line(msgspec.Struct, gc=False):
    custom_id: str
    response: Any = None
    error: Any = None
    result: Any = None
    """Anthropic's: `{"type": "succeeded", "message": {...}}` and others."""


_decode_line = msgspec.json.Decoder(_Line).decode


def answer_of(raw: bytes) -> Answer:
    """What a result line says. NotAResult for anything else, such as a line of the input."""
    try:
        line = _decode_line(raw)
    except _NOT_JSON as error:
        raise NotAResult(str(error)) from None
    if isinstance(line.result, Mapping):
        return _of_result(line.custom_id, line.result)
    if line.response is None and line.error is None:
        raise NotAResult("it has neither a response nor an error: is this the input file?")
    response = line.response if isinstance(line.response, Mapping) else {}
    body = response.get("body")
    status = response.get("status_code", 200)
    failure = line.error or (body.get("error") if isinstance(body, Mapping) else None)
    if failure or not isinstance(status, int) or not 200 <= status < 300 or body is None:
        return Answer(line.custom_id, error=_code(failure, status if response else None))
    return _answered(line.custom_id, body)


def _code(failure: object, status: object) -> str:
    """A failure in a word or two, so that failures can be counted."""
    if isinstance(failure, Mapping):
        inner = failure.get("error", failure)
        failure = inner if isinstance(inner, Mapping) else {"message": inner}
        code = failure.get("code")
        failure = (code if isinstance(code, str) else None) or failure.get("type") or failure.get("message") or code
    text = str(failure) if failure else "no answer"
    shown = text.split("\n")[0][:CODE_CHARS_MAX]
    return f"{status} {shown}" if isinstance(status, int) and shown != str(status) else shown


def _answered(custom_id: str, body: Any) -> Answer:
    if not isinstance(body, Mapping):
        return Answer(custom_id, body=body)
    usage = body.get("usage")
    usage = usage if isinstance(usage, Mapping) else {}
    model = body.get("model")
    known: dict[str, Any] = {
        "custom_id": custom_id,
        "model": model if isinstance(model, str) else "",
        "prompt_tokens": _count(usage, "prompt_tokens", "input_tokens"),
        "output_tokens": _count(usage, "completion_tokens", "output_tokens"),
    }
    choices, output, data = body.get("choices"), body.get("output"), body.get("data")
    if isinstance(choices, list) and choices and isinstance(choices[0], Mapping):
        return Answer(**known, **_of_choice(choices[0]))
    if isinstance(output, list):
        return Answer(**known, **_of_output(output, body))
    vectors = _vectors(data)
    if vectors:
        return Answer(**known, form=Form.VECTORS, vectors=vectors)
    return Answer(**known, body={name: value for name, value in body.items() if name not in _PASSING})


_PASSING: Final = frozenset({"id", "created", "created_at", "usage", "model", "system_fingerprint", "object"})


def _count(usage: Mapping[str, Any], *names: str) -> int:
    return next((usage[name] for name in names if isinstance(usage.get(name), int)), 0)


def _of_choice(choice: Mapping[str, Any]) -> dict[str, Any]:
    message = choice.get("message")
    reason = choice.get("finish_reason")
    found: dict[str, Any] = {"form": Form.TEXT, "finish_reason": reason if isinstance(reason, str) else ""}
    if isinstance(message, Mapping):
        calls = message.get("tool_calls")
        listed = [call for call in calls if isinstance(call, Mapping)] if isinstance(calls, list) else []
        functions = [call.get("function") for call in listed]
        found["calls"] = tuple(_call(one) for one in functions if isinstance(one, Mapping))
        found["text"] = _joined(message.get("content") or message.get("refusal"))
    else:
        found["text"] = _joined(choice.get("text"))
    return found


def _of_output(output: list[Any], body: Mapping[str, Any]) -> dict[str, Any]:
    items = [item for item in output if isinstance(item, Mapping)]
    texts = [_joined(item.get("content")) for item in items if item.get("type") == "message"]
    calls = [_call(item) for item in items if item.get("type") == "function_call"]
    details = body.get("incomplete_details")
    cut = details.get("reason") if isinstance(details, Mapping) else None
    reason = cut or body.get("status")
    return {
        "form": Form.TEXT,
        "text": "".join(texts),
        "calls": tuple(calls),
        "finish_reason": reason if isinstance(reason, str) else "",
    }


def _of_result(custom_id: str, result: Mapping[str, Any]) -> Answer:
    """A line of Anthropic's batches."""
    message = result.get("message")
    if result.get("type") != "succeeded" or not isinstance(message, Mapping):
        failure = result.get("error")
        return Answer(custom_id, error=_code(failure or result.get("type"), None))
    usage, content = message.get("usage"), message.get("content")
    usage = usage if isinstance(usage, Mapping) else {}
    parts = [part for part in content if isinstance(part, Mapping)] if isinstance(content, list) else []
    uses = [part for part in parts if part.get("type") == "tool_use"]
    reason, model = message.get("stop_reason"), message.get("model")
    return Answer(
        custom_id,
        form=Form.TEXT,
        text=_joined(content),
        calls=tuple(f"{use.get('name')}({canonical(use.get('input'))})" for use in uses),
        finish_reason=reason if isinstance(reason, str) else "",
        model=model if isinstance(model, str) else "",
        prompt_tokens=_count(usage, "input_tokens"),
        output_tokens=_count(usage, "output_tokens"),
    )


def _joined(content: object) -> str:
    """The text of a message: itself, or that of its parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, Mapping)]
        return "".join(_joined(part.get("text") or part.get("refusal")) for part in parts)
    return ""


def _call(function: Mapping[str, Any]) -> str:
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        parsed = parse_json(arguments)
        arguments = canonical(parsed) if parsed is not None else arguments
    return f"{function.get('name')}({arguments})"


def _vectors(data: object) -> tuple[Vector, ...]:
    if not isinstance(data, list) or not data:
        return ()
    items = [item.get("embedding") for item in data if isinstance(item, Mapping)]
    found = [vector for vector in map(_vector, items) if vector is not None]
    return tuple(found) if len(found) == len(data) else ()


def _vector(value: object) -> Vector | None:
    """A list of numbers, or base64 of little-endian 32-bit floats."""
    try:
        if isinstance(value, str):
            return np.frombuffer(base64.b64decode(value, validate=True), "<f4").astype(np.float32)
        if isinstance(value, list) and value:
            vector = np.asarray(value, np.float32)
            return vector if vector.ndim == 1 else None
    except (ValueError, TypeError, binascii.Error):
        return None
    return None


def parse_json(text: str) -> Any:
    """The JSON value that a text is, with or without a Markdown fence around it; None when it is none."""
    stripped = text.strip()
    if stripped.startswith("```") and stripped.endswith("```"):
        stripped = stripped.removeprefix("```json").strip("`").strip()
    if stripped[:1] not in ("{", "["):
        return None
    try:
        return msgspec.json.decode(stripped)
    except _NOT_JSON:
        return None


def canonical(value: Any) -> str:
    return msgspec.json.encode(value, order="deterministic").decode()
