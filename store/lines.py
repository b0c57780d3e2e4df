"""One line of a batch input file: what the store needs to know of it, and what is wrong with it.

A line is looked into once, while it is uploaded. `check_line` decodes only the fields that scheduling needs; the body
stays opaque bytes until an engine opens it, so a value that an endpoint would refuse is that endpoint's to refuse.
The common shapes go through one typed decode (`_Line`, about 1.5 microseconds for 1 KB); whatever does not fit goes
through `line_shapes`, which defines the meaning of every field. A test holds the two equal.
"""

from __future__ import annotations

from typing import Final

import msgspec

from store.line_shapes import NAME_CHARS_MAX, LineFacts, explain, ladder_of
from store.records import LineError

BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"

__all__ = ["BYTE_ORDER_MARK", "LINE_ERROR_CODES", "InputLine", "LineFacts", "check_line", "check_text", "parse_line"]

LINE_ERROR_CODES: Final = (
    "",
    "invalid_json_line",
    "missing_required_parameter",
    "invalid_method",
    "invalid_request",
    "line_too_long",
    "duplicate_custom_id",
    "too_many_requests",
)
"""The place of a code in this table is what an index stores; append only."""

_U32_MAX: Final = 0xFFFF_FFFF
_NO_LADDER: Final = (0, 0, 0, 0)


class InputLine(msgspec.Struct, frozen=True, gc=False):
    """A well-formed line, opened: `custom_id` exactly as the client wrote it, `body` the JSON object as bytes."""

    custom_id: str
    url: str
    body: bytes


class _Part(msgspec.Struct, gc=False):
    type: str = ""
    text: str = ""


class _Message(msgspec.Struct, gc=False):
    content: str | list[_Part] | None = None


class _Body(msgspec.Struct, gc=False):
    model: str
    messages: list[_Message] | None = None
    input: str | list[str] | None = None
    prompt: str | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    n: int | None = None
    stream: bool | None = None
    tools: msgspec.Raw | None = None
    text_1: msgspec.Raw | None = None
    data_1: msgspec.Raw | None = None
    query: msgspec.Raw | None = None
    queries: msgspec.Raw | None = None


class _Line(msgspec.Struct, gc=False):
    custom_id: str
    method: str
    url: str
    body: _Body


class _Opened(msgspec.Struct, gc=False):
    custom_id: str
    url: str
    body: msgspec.Raw


_decode_line = msgspec.json.Decoder(_Line).decode
_decode_opened = msgspec.json.Decoder(_Opened).decode


def parse_line(raw: bytes) -> InputLine:
    """Open a line that `check_line` found well-formed. A line that is not raises ValueError."""
    try:
        opened = _decode_opened(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not a well-formed input line: {error}") from error
    return InputLine(opened.custom_id, opened.url, bytes(opened.body))


def check_line(raw: bytes, *, line: int = 1) -> LineFacts | LineError:
    """What scheduling needs to know of a line, or the first thing that is wrong with its form.

    `raw` comes without its line ending; `line` is its 1-based number in the file, for the error. The length limit,
    duplicates and the byte order mark are the index's business: they need the file around the line.
    """
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return invalid_utf8(error, line)
    return check_text(raw, line=line)


def check_text(raw: bytes, *, line: int = 1) -> LineFacts | LineError:
    """`check_line` for bytes that are known to be UTF-8 (an index checks a whole block at once)."""
    facts = _common_shape(raw)
    if facts is not None:
        return facts
    return explain(raw, line)


def invalid_utf8(error: UnicodeDecodeError, line: int) -> LineError:
    where = f"byte {error.start + 1} of the line is 0x{error.object[error.start]:02x}"
    return LineError("invalid_json_line", f"This line is not valid UTF-8: {where}.", line=line)


def _common_shape(raw: bytes) -> LineFacts | None:
    """The facts of a well-formed line of a common shape; None says nothing but "look closer"."""
    try:
        decoded = _decode_line(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    body = decoded.body
    if (
        decoded.method != "POST"
        or not decoded.custom_id
        or not 0 < len(decoded.url) <= NAME_CHARS_MAX
        or not 0 < len(body.model) <= NAME_CHARS_MAX
        or body.stream
        or body.query is not None
        or body.queries is not None
        or body.text_1 is not None
        or body.data_1 is not None
    ):
        return None
    return _facts(decoded, body)


def _facts(decoded: _Line, body: _Body) -> LineFacts | None:
    count = 1
    if body.messages is not None:
        text = _message_text(body.messages)
        count = body.n or 1
    elif body.prompt is not None:
        text = body.prompt
        count = body.n or 1
    elif isinstance(body.input, str):
        text = body.input
    elif isinstance(body.input, list) and body.input:
        text = "".join(body.input)
        count = len(body.input)
    else:
        return None
    output_tokens = body.max_completion_tokens or body.max_output_tokens or body.max_tokens or 0
    if count < 1 or not 0 <= output_tokens <= _U32_MAX or count > _U32_MAX:
        return None
    if text.isascii():
        size = len(text)
        ladder = _NO_LADDER if size < 256 else ladder_of(text[:16384].encode())
    else:
        data = text.encode()
        size = len(data)
        ladder = ladder_of(data)
    if body.tools is not None:
        size += len(bytes(body.tools))
    return LineFacts(decoded.custom_id, decoded.url, body.model, size, output_tokens, count, ladder)


def _message_text(messages: list[_Message]) -> str:
    pieces = []
    for message in messages:
        content = message.content
        if isinstance(content, str):
            pieces.append(content)
        elif content is not None:
            pieces.extend(part.text for part in content)
    return "".join(pieces)
