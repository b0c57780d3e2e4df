"""What lines have in common, as numbers: the longest prefix that a line shares with its neighbours, else the
instructions and the schema that its body asks by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from store.line_shapes import LADDER_BYTES

Array = NDArray[Any]

INSTRUCTING_ROLES = frozenset({"system", "developer"})


def seed_of(model: str, revision: str, endpoint: str) -> int:
    """Templates of different models, or of different ways to ask them, are different ones."""
    return xxhash.xxh3_64_intdigest("\0".join((model, revision, endpoint)).encode())


def shared_prefixes(ladder_step: Callable[[int], Array], lines: int) -> tuple[Array, Array]:
    """The hash and the length in bytes of the longest known prefix that each line shares with the one before or behind
    it; zeros where there is none. `ladder_step` gives the hashes of one step of all lines, in the order in which they
    run."""
    hashes, sizes = np.zeros(lines, dtype=np.uint64), np.zeros(lines, dtype=np.uint32)
    for step, size in enumerate(LADDER_BYTES):
        column = ladder_step(step)
        same = (column[1:] == column[:-1]) & (column[1:] != 0)
        shared = np.zeros(lines, dtype=np.bool_)
        shared[1:] |= same
        shared[:-1] |= same
        if not shared.any():
            break  # a longer prefix cannot repeat where a shorter one does not
        hashes[shared] = column[shared]
        sizes[shared] = size
    return hashes, sizes


def templates_of(prefixes: Array, seeds: Array) -> Array:
    """The templates of lines by their shared prefixes, 0 where they share none; `seeds` is one for each line."""
    templates: Array = np.where(prefixes == 0, np.uint64(0), prefixes ^ seeds)
    return templates


class _Message(msgspec.Struct):
    role: str = ""
    content: msgspec.Raw = msgspec.Raw()


class _Text(msgspec.Struct):
    format: msgspec.Raw = msgspec.Raw()


class _Body(msgspec.Struct):
    messages: list[_Message] = []
    instructions: msgspec.Raw = msgspec.Raw()
    response_format: msgspec.Raw = msgspec.Raw()
    text: _Text | None = None


_decode = msgspec.json.Decoder(_Body).decode


def template_of_body(body: bytes, seed: int) -> int:
    """Of a line that shares no long prefix: its instructions and schema; 0 where it has neither, or another shape."""
    try:
        found = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0
    first = found.messages[0] if found.messages else None
    system = bytes(first.content) if first is not None and first.role in INSTRUCTING_ROLES else b""
    schema = bytes(found.response_format) or (b"" if found.text is None else bytes(found.text.format))
    parts = (system, bytes(found.instructions), schema)
    return xxhash.xxh3_64_intdigest(b"\0".join(parts)) ^ seed if any(parts) else 0
