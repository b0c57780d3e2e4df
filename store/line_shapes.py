"""Every shape an input line may have, and what is wrong with one that has none of them.

The slow, complete half of `lines`: fields are read without a type and looked at one by one, so that an odd value is
either understood or left to the endpoint, and an error names its field. What counts as prompt, output and sub-request
is defined here.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import xxhash

from store.records import LineError

LADDER_BYTES: Final = (256, 1024, 4096, 16384)
"""Prefix lengths that are hashed: lines that agree on a step share at least that many bytes of their prompts."""

NAME_CHARS_MAX: Final = 512
"""The longest model name and url."""

TOKEN_BYTES: Final = 4
"""What one token of a prompt given as token ids counts for, in bytes of text."""

U32_MAX: Final = 0xFFFF_FFFF
NO_LADDER: Final = bytes(32)
_ONE_STEP: Final = bytes(24)
_hash = xxhash.xxh3_64_digest


class LineFacts(msgspec.Struct, frozen=True, gc=False):
    """What scheduling needs to know of a well-formed line.

    `output_tokens` is the most the client lets it generate (0: not said). `sub_requests` is how many sequences it fans
    out to. `ladder` is four hashes of 8 bytes, of the first LADDER_BYTES of the prompt; zeros where it is shorter.
    """

    custom_id: str
    url: str
    model: str
    prompt_bytes: int
    output_tokens: int
    sub_requests: int
    ladder: bytes


class _Loose(msgspec.Struct, gc=False):
    custom_id: Any = msgspec.UNSET
    method: Any = msgspec.UNSET
    url: Any = msgspec.UNSET
    body: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _LooseBody(msgspec.Struct, gc=False):
    model: Any = msgspec.UNSET
    stream: Any = None
    n: Any = None
    messages: Any = None
    prompt: Any = None
    input: Any = None
    max_tokens: Any = None
    max_completion_tokens: Any = None
    max_output_tokens: Any = None
    tools: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    query: Any = None
    queries: Any = None
    documents: Any = None
    items: Any = None
    text_1: Any = None
    text_2: Any = None
    data_1: Any = None
    data_2: Any = None


_decode_loose = msgspec.json.Decoder(_Loose).decode
_decode_body = msgspec.json.Decoder(_LooseBody).decode


def ladder_of(prompt: bytes) -> bytes:
    size = len(prompt)
    if size < LADDER_BYTES[0]:
        return NO_LADDER
    if size < LADDER_BYTES[1]:
        return _hash(prompt[:256]) + _ONE_STEP
    steps = [_hash(prompt[:step]) for step in LADDER_BYTES if step <= size]
    return b"".join(steps).ljust(len(NO_LADDER), b"\0")


def explain(raw: bytes, line: int) -> LineFacts | LineError:
    """The facts of a line of any shape, or the first thing wrong with its form. `raw` is known to be UTF-8."""
    try:
        loose = _decode_loose(raw)
    except msgspec.ValidationError as error:
        return LineError("invalid_request", f"This line is not a request object: {error}.", line=line)
    except msgspec.DecodeError as error:
        return LineError("invalid_json_line", f"This line is not parseable as valid JSON: {error}.", line=line)
    except RecursionError:
        return LineError("invalid_json_line", "This line is nested too deeply to be parsed.", line=line)
    envelope_error = _envelope_error(loose, line)
    if envelope_error is not None:
        return envelope_error
    assert not isinstance(loose.body, msgspec.UnsetType)
    try:
        body = _decode_body(loose.body)
        prompt, sequences, extra_bytes = _prompt_of(body)
    except msgspec.ValidationError as error:
        return _refused(line, "body", f"is not a request object: {error}")
    except RecursionError:
        return LineError("invalid_json_line", "This line is nested too deeply to be parsed.", line=line)
    body_error = _body_error(body, line)
    if body_error is not None:
        return body_error
    return LineFacts(
        custom_id=loose.custom_id,
        url=loose.url,
        model=body.model,
        prompt_bytes=min(len(prompt) + extra_bytes, U32_MAX),
        output_tokens=_output_tokens(body),
        sub_requests=min(sequences, U32_MAX),
        ladder=ladder_of(prompt),
    )


def _missing(line: int, param: str) -> LineError:
    return LineError("missing_required_parameter", f"Missing required parameter: '{param}'.", param=param, line=line)


def _refused(line: int, param: str, what: str) -> LineError:
    return LineError("invalid_request", f"'{param}' {what}.", param=param, line=line)


def _name_error(value: object, line: int, param: str) -> LineError | None:
    if not isinstance(value, str) or not value:
        return _refused(line, param, "must be a string that is not empty")
    if len(value) > NAME_CHARS_MAX:
        return _refused(line, param, f"is longer than {NAME_CHARS_MAX} characters")
    return None


def _envelope_error(loose: _Loose, line: int) -> LineError | None:
    if loose.custom_id is msgspec.UNSET:
        return _missing(line, "custom_id")
    if not isinstance(loose.custom_id, str) or not loose.custom_id:
        return _refused(line, "custom_id", "must be a string that is not empty")
    if loose.method is msgspec.UNSET:
        return _missing(line, "method")
    if loose.method != "POST":
        shown = repr(loose.method)[:40]
        return LineError("invalid_method", f"'method' must be \"POST\", not {shown}.", param="method", line=line)
    if loose.url is msgspec.UNSET:
        return _missing(line, "url")
    if (url_error := _name_error(loose.url, line, "url")) is not None:
        return url_error
    if isinstance(loose.body, msgspec.UnsetType):
        return _missing(line, "body")
    if not bytes(loose.body).startswith(b"{"):
        return _refused(line, "body", "must be a JSON object")
    return None


def _body_error(body: _LooseBody, line: int) -> LineError | None:
    if body.model is msgspec.UNSET:
        return _missing(line, "body.model")
    if (model_error := _name_error(body.model, line, "body.model")) is not None:
        return model_error
    if body.stream is True:
        return _refused(line, "body.stream", "must be false: a batch answers each line as a whole")
    return None


def _whole_number(value: object) -> int:
    """The value as a count: 0 for anything that is not a positive whole number (the endpoint says what it thinks)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        return 0
    return min(max(int(value), 0), U32_MAX)


def _output_tokens(body: _LooseBody) -> int:
    limits = (body.max_completion_tokens, body.max_output_tokens, body.max_tokens)
    return next((tokens for tokens in map(_whole_number, limits) if tokens), 0)


def _prompt_of(body: _LooseBody) -> tuple[bytes, int, int]:
    """The prompt as one run of bytes, how many sequences it makes, and prompt bytes beyond the run itself."""
    tools_bytes = 0 if isinstance(body.tools, msgspec.UnsetType) else len(bytes(body.tools))
    if body.messages is not None:
        return _text_of(body.messages), max(_whole_number(body.n), 1), tools_bytes
    if body.prompt is not None:
        text, prompts = _prompts_of(body.prompt)
        return text, prompts * max(_whole_number(body.n), 1), tools_bytes
    if body.input is not None:
        text, inputs = _prompts_of(body.input)
        return text, inputs, tools_bytes
    left = next((value for value in (body.query, body.queries, body.text_1, body.data_1) if value is not None), None)
    right = next((value for value in (body.documents, body.items, body.text_2, body.data_2) if value is not None), None)
    return _pairs_of(left, right)


def _prompts_of(value: object) -> tuple[bytes, int]:
    """A `prompt` or `input`: a text, token ids, or an array of either. Items of a conversation make one sequence."""
    if not isinstance(value, list) or not value:
        return _text_of(value), 1
    if all(isinstance(item, int) for item in value):
        return _tokens(value), 1
    one_conversation = any(isinstance(item, dict) for item in value)
    return b"".join(map(_text_of, value)), 1 if one_conversation else len(value)


def _pairs_of(left: object, right: object) -> tuple[bytes, int, int]:
    """Queries against documents, one sequence a pair; a single query is read again for every document."""
    lefts = left if isinstance(left, list) else [left]
    rights = right if isinstance(right, list) else [right]
    pairs = max(len(lefts), len(rights), 1)
    query = b"".join(map(_text_of, lefts))
    again = len(query) * (pairs - 1) if len(lefts) == 1 else 0
    return query + b"".join(map(_text_of, rights)), pairs, again


def _text_of(value: object) -> bytes:
    """The texts inside a value, in order: a string, token ids, messages, content parts."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, list):
        if value and all(isinstance(item, int) for item in value):
            return _tokens(value)
        return b"".join(map(_text_of, value))
    if isinstance(value, dict):
        return _text_of(value.get("content")) + _text_of(value.get("text"))
    return b""


def _tokens(ids: Sequence[int]) -> bytes:
    return array("I", [token & U32_MAX for token in ids]).tobytes()
