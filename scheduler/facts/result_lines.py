"""The JSONL lines of output and error files, in OpenAI's shape (one function per case, bytes out, no newline).

Ids come from the batch id and the line number alone, so a line that had to be generated again keeps its id.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import msgspec

from store import records
from store.result_ids import result_ids

EXPIRED_CODE = "batch_expired"
EXPIRED_MESSAGE = "This request could not be executed before the completion window expired."
CANCELLED_CODE = "batch_cancelled"
CANCELLED_MESSAGE = "This request was not executed because the batch was cancelled."
CRASHED_CODE = "engine_crashed"
INTERNAL_CODE = "internal_error"

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class LineError:
    """Why a line has no response: what stands under `error` in its result line."""

    code: str
    message: str


EXPIRED = LineError(EXPIRED_CODE, EXPIRED_MESSAGE)
CANCELLED = LineError(CANCELLED_CODE, CANCELLED_MESSAGE)
DAMAGED = LineError(
    INTERNAL_CODE, "The result of this request was lost: a file in the server's data folder is damaged."
)


def crashed(deaths: int) -> LineError:
    return LineError(
        CRASHED_CODE,
        f"The engine died {deaths} times while this request was the only one in flight. It was not tried again.",
    )


def answered_line(
    batch_id: str, line_no: int, custom_id: str, *, status_code: int, body: bytes, reused: bool = False
) -> bytes:
    """A line that got an HTTP answer, 2xx or not; `body` is already JSON and is copied as it is. A line whose answer is
    another's says so, in a field of its own that no client of OpenAI's knows."""
    if b"\n" in body:
        body = body.replace(b"\n", b" ")  # between tokens only: inside a JSON string a newline is always escaped
    batch_req_id, request_id = result_ids(batch_id, line_no)
    return (
        b'{"id":"batch_req_%b","custom_id":%b,"response":{"status_code":%d,"request_id":"req_%b","body":%b},"error":null%b}'
        % (
            batch_req_id,
            _json_string(custom_id),
            status_code,
            request_id,
            body,
            b',"reused":true' if reused else b"",
        )
    )


def unanswered_line(batch_id: str, line_no: int, custom_id: str, error: LineError) -> bytes:
    """A line without an HTTP answer: `response` is null and `error` an object."""
    batch_req_id, _ = result_ids(batch_id, line_no)
    return b'{"id":"batch_req_%b","custom_id":%b,"response":null,"error":{"code":%b,"message":%b}}' % (
        batch_req_id,
        _json_string(custom_id),
        _json_string(error.code),
        _json_string(error.message),
    )


def invalid_line(batch_id: str, line_no: int, custom_id: str, error: records.LineError) -> bytes:
    """A line that validation refused: like `unanswered_line`, and its error says the field and the line in the file."""
    batch_req_id, _ = result_ids(batch_id, line_no)
    told = {"code": error.code, "message": error.message, "param": error.param, "line": error.line}
    return b'{"id":"batch_req_%b","custom_id":%b,"response":null,"error":%b}' % (
        batch_req_id,
        _json_string(custom_id),
        _encode(told),
    )


def _json_string(text: str) -> bytes:
    try:
        return _encode(text)
    except UnicodeEncodeError:  # a lone surrogate, legal as an escape in JSON: only an escape gives it back unchanged
        return json.dumps(text).encode()
