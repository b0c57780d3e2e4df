"""Whether two ways to an embedding agree, asked of an engine before the shorter way is taken.

A test holds both equal for the model that comes with us; this does so for the model and the vLLM that are there.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import msgspec

from engine.answers import shape_answer
from engine.protocol import EMBEDDINGS, EngineError, EngineResult

DIFFERENCE_MAX = 0.02
"""Of the largest number of a vector. By reduced precision a text differs from itself by less, other texts by more."""

PROBES = ("A first text.", "Ein zweiter, etwas längerer Text: mit Ümläuten, 12,5 % Zahlen\nund einem Umbruch.")

ShortWay = Callable[[bytes], Awaitable[EngineResult | None]]
LongWay = Callable[[str, bytes], Awaitable[tuple[int, bytes]]]

log = logging.getLogger(__name__)


class _Item(msgspec.Struct):
    embedding: list[float]


class _Usage(msgspec.Struct):
    prompt_tokens: int


class _Answer(msgspec.Struct):
    data: list[_Item]
    usage: _Usage


_decode = msgspec.json.Decoder(_Answer).decode


async def agree(short: ShortWay, long: LongWay, model: str) -> bool:
    """False, with a line in the log, also where either way fails: the long way is then the only one."""
    body = msgspec.json.encode({"model": model, "input": PROBES})
    status_code, found = await long(EMBEDDINGS, body)
    mine = await short(body)
    if status_code == HTTPStatus.OK and mine is not None and alike(mine.body, found):
        return True
    log.warning("embeddings go through vLLM's serving class: without it the answer to a probe is not the same")
    return False


def alike(short: bytes, long: bytes) -> bool:
    """Equal counts of vectors and tokens, and vectors that differ by rounding only."""
    try:
        one, other = _decode(short), _decode(shape_answer(EMBEDDINGS, long).body)
    except (msgspec.DecodeError, EngineError):
        return False
    if one.usage != other.usage or len(one.data) != len(other.data):
        return False
    return all(_near(a.embedding, b.embedding) for a, b in zip(one.data, other.data, strict=True))


def _near(one: list[float], other: list[float]) -> bool:
    if len(one) != len(other) or not one:
        return False
    bound = DIFFERENCE_MAX * max(map(abs, other))
    return all(abs(a - b) <= bound for a, b in zip(one, other, strict=True))
