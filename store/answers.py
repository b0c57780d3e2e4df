"""What one result line says: what it is an answer of, and what is wrong with the answer."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from store.asked import Asked

ERROR: Final = "error"
EXPIRED: Final = "expired"
CANCELLED: Final = "cancelled"
LENGTH: Final = "length"
EMPTY: Final = "empty"
REFUSAL: Final = "refusal"
CONTENT_FILTER: Final = "content_filter"
INVALID_JSON: Final = "invalid-json"
SCHEMA_MISMATCH: Final = "schema-mismatch"

CONDITIONS: Final = (
    ERROR,
    EXPIRED,
    CANCELLED,
    LENGTH,
    EMPTY,
    REFUSAL,
    CONTENT_FILTER,
    INVALID_JSON,
    SCHEMA_MISMATCH,
)
"""What a line can be picked by to run again. A line may meet several; one that failed meets one of the first three."""

FAILURES: Final = frozenset((ERROR, EXPIRED, CANCELLED))
_UNANSWERED: Final = {"batch_expired": EXPIRED, "batch_cancelled": CANCELLED}

LABEL_CHARS_MAX: Final = 100
MESSAGE_CHARS_MAX: Final = 200


@dataclass(slots=True)
class Cause:
    """Why a line failed, without what differs from line to line."""

    status_code: int | None
    code: str | None
    message: str


@dataclass(slots=True)
class Answer:
    custom_id: str = ""
    conditions: set[str] = field(default_factory=set)
    finish_reasons: list[str] = field(default_factory=list)
    tokens: int | None = None
    json_asked: bool = False
    labels: list[tuple[str, str]] = field(default_factory=list)
    cause: Cause | None = None


class _Message(msgspec.Struct):
    content: Any = None
    refusal: Any = None
    tool_calls: Any = None


class _Choice(msgspec.Struct):
    finish_reason: str | None = None
    message: _Message | None = None
    text: str | None = None


class _Item(msgspec.Struct):
    type: str = ""
    content: Any = None


class _Usage(msgspec.Struct):
    completion_tokens: int | None = None
    output_tokens: int | None = None


class _Failure(msgspec.Struct):
    code: Any = None
    message: Any = None


class _Details(msgspec.Struct):
    reason: str | None = None


class _Body(msgspec.Struct):
    choices: list[_Choice] | None = None
    output: list[_Item] | None = None
    status: Any = None
    incomplete_details: _Details | None = None
    usage: _Usage | None = None
    error: _Failure | None = None


class _Response(msgspec.Struct):
    status_code: int = 0
    body: _Body = msgspec.field(default_factory=_Body)


class _Line(msgspec.Struct):
    custom_id: str = ""
    response: _Response | None = None
    error: _Failure | None = None


class _Plain(msgspec.Struct):
    custom_id: str = ""
    error: _Failure | None = None


_decode = msgspec.json.Decoder(_Line).decode
_decode_plain = msgspec.json.Decoder(_Plain).decode
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def custom_id_of(raw: bytes) -> str:
    return _decode_plain(raw).custom_id


def failure_code_of(raw: bytes) -> str | None:
    """The code of a line without an HTTP answer."""
    failure = _decode_plain(raw).error
    return failure.code if failure is not None and isinstance(failure.code, str) else None


def read_answer(raw: bytes, *, succeeded: bool, asked: Asked | None) -> Answer:
    """Never raises: what an upstream made of a shape that nobody knows has no facts."""
    try:
        line = _decode(raw)
    except _UNREADABLE:
        answer = Answer(_custom_id_left(raw))
        if not succeeded:
            answer.conditions.add(ERROR)
            answer.cause = Cause(None, None, "an error of unknown shape")
        return answer
    answer = Answer(line.custom_id)
    if not succeeded:
        _read_failure(line, answer)
    elif line.response is not None:
        _read_success(line.response.body, answer, asked)
    return answer


def _custom_id_left(raw: bytes) -> str:
    try:
        return custom_id_of(raw)
    except _UNREADABLE:
        return ""


def _read_failure(line: _Line, answer: Answer) -> None:
    failure = line.error or (line.response.body.error if line.response else None) or _Failure()
    code = None if failure.code is None else str(failure.code)[:LABEL_CHARS_MAX]
    message = failure.message if isinstance(failure.message, str) else ""
    answer.cause = Cause(line.response.status_code if line.response else None, code, normalised(message))
    answer.conditions.add(_UNANSWERED.get(code or "", ERROR) if line.response is None else ERROR)


def _read_success(body: _Body, answer: Answer, asked: Asked | None) -> None:
    if body.usage is not None:
        used = body.usage
        answer.tokens = used.completion_tokens if used.completion_tokens is not None else used.output_tokens
    if body.choices is not None:
        for choice in body.choices:
            _read_choice(choice, answer, asked)
    elif body.output is not None:
        _read_output(body, answer, asked)
    else:
        answer.tokens = None  # an embedding or a score: it has no length


def _read_choice(choice: _Choice, answer: Answer, asked: Asked | None) -> None:
    reason = choice.finish_reason or "none"
    answer.finish_reasons.append(reason)
    if reason in (LENGTH, CONTENT_FILTER):
        answer.conditions.add(reason)
    message = choice.message
    if message is None:
        _read_text(choice.text or "", answer, None)
    elif message.refusal:
        answer.conditions.add(REFUSAL)
    elif not message.tool_calls:
        _read_text(_text_of(message.content), answer, asked)


def _read_output(body: _Body, answer: Answer, asked: Asked | None) -> None:
    """An answer of /v1/responses."""
    reason = body.incomplete_details.reason if body.incomplete_details else None
    reason = {"max_output_tokens": LENGTH, None: "stop"}.get(reason, reason) or "stop"
    answer.finish_reasons.append(reason)
    if reason in (LENGTH, CONTENT_FILTER):
        answer.conditions.add(reason)
    items = body.output or []
    parts = [part for item in items if item.type == "message" for part in _parts(item.content)]
    if any(part.get("type") == REFUSAL for part in parts):
        answer.conditions.add(REFUSAL)
    elif not any(item.type.endswith("_call") for item in items):
        _read_text(_text_of(parts), answer, asked)


def _parts(content: object) -> list[dict[str, Any]]:
    return [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []


def _text_of(content: object) -> str:
    if isinstance(content, str):
        return content
    texts = (part.get("text") for part in _parts(content))
    return "".join(text for text in texts if isinstance(text, str))


def _read_text(text: str, answer: Answer, asked: Asked | None) -> None:
    if not text or text.isspace():
        answer.conditions.add(EMPTY)
    if asked is None:
        return
    answer.json_asked = True
    try:
        value = msgspec.json.decode(text)
    except (*_UNREADABLE, UnicodeEncodeError):
        answer.conditions.add(INVALID_JSON)
        return
    if not _matches(value, asked):
        answer.conditions.add(SCHEMA_MISMATCH)
    elif isinstance(value, dict):
        answer.labels += [(name, _label(value[name])) for name in asked.labelled if name in value]


def _matches(value: object, asked: Asked) -> bool:
    if asked.validator is None:
        return True
    try:
        return bool(asked.validator.is_valid(value))
    except (ValueError, TypeError, RecursionError, OverflowError):
        # A pattern that needs too many steps, a reference to elsewhere: nobody can say.
        return True


def _label(value: object) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text[:LABEL_CHARS_MAX]


_VARYING: Final = re.compile(
    r"\b[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\b"
    r"|\b(?:[a-z]+[-_])?(?=[0-9A-Za-z]*[0-9])[0-9A-Za-z]{16,}\b"
    r"|\b0x[0-9a-fA-F]+\b|\d[\d,._]*\d|\d"
)


def normalised(message: str) -> str:
    """The message with `#` for numbers and ids, so that one cause has one text."""
    # An id is cut in half where the text ends: what varies is looked for before it is cut to length.
    return " ".join(_VARYING.sub("#", message[: 4 * MESSAGE_CHARS_MAX]).split())[:MESSAGE_CHARS_MAX]
