"""One line of a batch input file: what the store needs to know of it, and what is wrong with it.

A line is looked into once, while it is uploaded. `check_line` decodes only the fields that scheduling needs; the body
stays opaque bytes until an engine opens it, so a value that an endpoint would refuse is that endpoint's to refuse.
The common shapes go through one typed decode (`CommonLine`, a microsecond for 1 KB; `common_lines` opens many at once);
whatever does not fit goes through `line_shapes`, which defines the meaning of every field. Tests hold them equal.
"""

from __future__ import annotations

import operator
from typing import Annotated, Final, Literal

import msgspec

from store.line_shapes import LADDER_BYTES, NAME_CHARS_MAX, NO_LADDER, U32_MAX, LineFacts, explain, ladder_of
from store.records import LineError

BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"

__all__ = [
    "BYTE_ORDER_MARK",
    "LINE_ERROR_CODES",
    "CommonBody",
    "CommonLine",
    "InputLine",
    "LineFacts",
    "check_line",
    "common_shape",
    "content_of",
    "decode_common",
    "facts_of",
    "parse_line",
]

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


_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_CHARS_MAX)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=U32_MAX)]


class CommonBody(msgspec.Struct, gc=False):
    model: _Name
    messages: list[_Message] | None = None
    input: str | list[str] | None = None
    prompt: str | None = None
    max_tokens: _Count | None = None
    max_completion_tokens: _Count | None = None
    max_output_tokens: _Count | None = None
    n: _Count | None = None
    stream: bool | None = None
    tools: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class CommonLine(msgspec.Struct, gc=False):
    custom_id: Annotated[str, msgspec.Meta(min_length=1)]
    method: Literal["POST"]
    url: _Name
    body: CommonBody


class _Opened(msgspec.Struct, gc=False):
    custom_id: str
    url: str
    body: msgspec.Raw


_decode_line = msgspec.json.Decoder(CommonLine).decode
_decode_lines = msgspec.json.Decoder(CommonLine).decode_lines
_decode_opened = msgspec.json.Decoder(_Opened).decode
_NOT_COMMON: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
content_of = operator.attrgetter("content")


def parse_line(raw: bytes) -> InputLine:
    """Open a line that `check_line` found well-formed. A line that is not raises ValueError."""
    try:
        opened = _decode_opened(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not a well-formed input line: {error}") from error
    return InputLine(opened.custom_id, opened.url, bytes(opened.body))


def check_line(raw: bytes, *, line: int = 1) -> LineFacts | LineError:
    """What scheduling needs to know of a line, or the first thing that is wrong with its form.

    `raw` comes without its line ending; `line` is its 1-based number in the file, for the error. The length limit and
    duplicates are the index's business: they need the file around the line.
    """
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return _invalid_utf8(error, line)
    if raw.startswith(BYTE_ORDER_MARK):
        what = "This line starts with a UTF-8 byte order mark (BOM), which is not JSON: save the file without one."
        return LineError("invalid_json_line", what, line=line)
    return common_shape(raw) or explain(raw, line)


def _invalid_utf8(error: UnicodeDecodeError, line: int) -> LineError:
    where = f"byte {error.start + 1} of the line is 0x{error.object[error.start]:02x}"
    return LineError("invalid_json_line", f"This line is not valid UTF-8: {where}.", line=line)


def common_shape(raw: bytes) -> LineFacts | None:
    """The facts of a well-formed line of a common shape; None says nothing but "look closer".

    `raw` is known to be UTF-8: the decoder does not look into what it skips.
    """
    try:
        return facts_of(_decode_line(raw))
    except _NOT_COMMON:
        return None


def decode_common(values: bytes) -> list[CommonLine] | None:
    """JSON values one behind the other, whatever space is between them: None when any has no common shape."""
    try:
        return _decode_lines(values)
    except _NOT_COMMON:
        return None


def facts_of(line: CommonLine) -> LineFacts | None:
    """None when the line needs a closer look after all."""
    body = line.body
    if body.stream:
        return None
    count = 1
    if body.messages is not None:
        text = _message_text(body.messages)
        count = body.n or 1
    elif body.prompt is not None:
        text = body.prompt
        count = body.n or 1
    elif isinstance(body.input, str):
        text = body.input
    elif body.input:
        text = "".join(body.input)
        count = len(body.input)
    else:
        return None
    size = len(text)
    if size >= LADDER_BYTES[0] or not text.isascii():
        data = text.encode()
        size = len(data)
        ladder = ladder_of(data)
    else:
        ladder = NO_LADDER
    if body.tools is not msgspec.UNSET:
        size += len(bytes(body.tools))
    output_tokens = body.max_completion_tokens or body.max_output_tokens or body.max_tokens or 0
    return LineFacts(line.custom_id, line.url, body.model, size, output_tokens, count, ladder)


def _message_text(messages: list[_Message]) -> str:
    try:
        return "".join(map(content_of, messages))  # nearly always strings: cheaper than to ask first
    except TypeError:
        contents = [message.content for message in messages]
        return "".join(
            content if isinstance(content, str) else "".join([part.text for part in content])
            for content in contents
            if content is not None
        )
