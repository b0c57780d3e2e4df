"""A whole block of lines at once, in columns. Nearly every block has only lines of common shapes: decoding them in one
go, without a copy of each, costs half of a decode for each.

What makes it safe: `decode_common` takes JSON values wherever they stand, but no JSON value has a line ending between
`}` and `{`, and no string has one at all. So where every line ending of a block stands between `}` and `{`, each line
is decoded on its own, and as many values as lines are one value a line.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from store.line_blocks import Block
from store.line_shapes import LineFacts, ladder_of
from store.lines import CommonBody, CommonLine, content_of, decode_common, facts_of

_OPEN: Final = ord("{")
_CLOSE: Final = ord("}")
_RETURN: Final = ord("\r")

Places = npt.NDArray[np.int64]


class Columns(NamedTuple):
    """The facts of lines (LineFacts), each fact a list."""

    custom_ids: list[str]
    urls: list[str]
    models: list[str]
    prompt_bytes: list[int]
    output_tokens: list[int]
    sub_requests: list[int]
    ladders: list[bytes]


class CommonLines(NamedTuple):
    """The lines of a block: where each starts in the file, how long it is, and its facts."""

    offsets: Places
    lengths: Places
    columns: Columns


def common_lines(block: Block) -> CommonLines | None:
    """None when any line of the block needs a closer look: a blank one, a broken one, one of a rare shape."""
    found = _objects_in(block.data)
    if found is None or not _is_utf8(block.data):
        return None
    starts, ends = found
    lines = decode_common(block.data)
    if lines is None or len(lines) != len(starts):
        return None
    columns = columns_of(lines)
    return None if columns is None else CommonLines(starts + block.offset, ends - starts, columns)


def columns_of(lines: Sequence[CommonLine]) -> Columns | None:
    """The facts of the lines, or None when `facts_of` has none for any of them."""
    bodies = [line.body for line in lines]
    prompts = _plain_chats(bodies)
    if prompts is None:
        found = [facts for facts in map(facts_of, lines) if facts is not None]
        return _transposed(found) if len(found) == len(lines) else None
    return Columns(
        custom_ids=[line.custom_id for line in lines],
        urls=[line.url for line in lines],
        models=[body.model for body in bodies],
        prompt_bytes=list(map(len, prompts)),
        output_tokens=[body.max_completion_tokens or body.max_output_tokens or body.max_tokens or 0 for body in bodies],
        sub_requests=[body.n or 1 for body in bodies],
        ladders=list(map(ladder_of, prompts)),
    )


def _plain_chats(bodies: Sequence[CommonBody]) -> list[bytes] | None:
    """The prompts, when all are chats of nothing but strings, as most are: they need no look at each."""
    if any(body.stream or body.tools is not msgspec.UNSET for body in bodies):
        return None
    try:
        return ["".join(map(content_of, body.messages)).encode() for body in bodies]  # type: ignore[arg-type]
    except TypeError:  # no messages, or one without a content, or with parts
        return None


def _transposed(facts: Sequence[LineFacts]) -> Columns:
    return Columns(
        custom_ids=[one.custom_id for one in facts],
        urls=[one.url for one in facts],
        models=[one.model for one in facts],
        prompt_bytes=[one.prompt_bytes for one in facts],
        output_tokens=[one.output_tokens for one in facts],
        sub_requests=[one.sub_requests for one in facts],
        ladders=[one.ladder for one in facts],
    )


def _objects_in(data: bytes) -> tuple[Places, Places] | None:
    """Where the lines start and end, carriage returns left out, when each starts with `{` and ends with `}`."""
    if data[-1:] not in (b"}", b"\r"):
        return None
    newlines = _newlines(data)
    bytes_of = np.frombuffer(data, np.uint8)
    starts = np.concatenate(([0], newlines + 1))
    ends = np.append(newlines, len(data))
    ends -= bytes_of[ends - 1] == _RETURN
    if (bytes_of[starts] == _OPEN).all() and (bytes_of[ends - 1] == _CLOSE).all():
        return starts, ends
    return None


def _newlines(data: bytes) -> Places:
    """A search from each to the next: over lines of hundreds of bytes faster than numpy's look at every byte."""
    found: list[int] = []
    find, at = data.find, data.find(b"\n")
    while at >= 0:
        found.append(at)
        at = find(b"\n", at + 1)
    return np.array(found, dtype=np.int64)


def _is_utf8(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
