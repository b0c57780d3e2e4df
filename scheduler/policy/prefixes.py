"""What the lines of one shard begin with in common, and the order that keeps it together.

An engine that caches prefixes reads and holds a common beginning once, as long as the lines that have it run together.
The ladder in a line's index record says how far two prompts agree in a few steps; within a shard the bodies are at hand
and say it exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

RUN_SORTED_MIN = 3
"""Two lines that agree stand together in any order."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """What a line begins with, as others may. The same text has the same key in every batch; 0 is none.

    `tokens` of it are common to all lines of the key that stand together in one shard; 0 where the line is alone.
    """

    key: int = 0
    tokens: int = 0


NO_PREFIX = Prefix()


def arrangement(*, ladder: Array, output_tokens: Array, bodies: Sequence[bytes]) -> list[int]:
    """The places of a shard's lines in the order in which they run.

    Lines that agree on a step of the ladder and may run equally long are sorted by their bodies: so documents that are
    shorter than a step stand together too. All others stay where they are.
    """
    keys, is_shared = _keys(ladder)
    breaks = (keys[1:] != keys[:-1]) | (output_tokens[1:] != output_tokens[:-1])
    places = list(range(len(bodies)))
    for start, stop in _runs(breaks, len(bodies)):
        if stop - start >= RUN_SORTED_MIN and is_shared[start]:
            places[start:stop] = sorted(places[start:stop], key=bodies.__getitem__)
    return places


def prefixes(*, ladder: Array, prompt_bytes: Array, bodies: Sequence[bytes], bytes_per_token: float) -> list[Prefix]:
    """Of each line, in the order in which they run; none where the prompt is shorter than the first step."""
    keys, is_shared = _keys(ladder)
    found: list[Prefix] = []
    for start, stop in _runs(keys[1:] != keys[:-1], len(bodies)):
        key = int(keys[start])
        if not key:
            found += [NO_PREFIX] * (stop - start)
            continue
        tokens = 0
        if is_shared[start]:
            # A body is its prompt with escapes and other fields: it is taken to be as much longer all over.
            part = common_bytes(bodies[start:stop]) / max(1, len(bodies[start]))
            tokens = int(part * int(prompt_bytes[start]) / bytes_per_token)
        found += [Prefix(key, tokens)] * (stop - start)
    return found


def _keys(ladder: Array) -> tuple[Array, Array]:
    """For each line the hash of the longest step on which it agrees with a neighbour, and whether there is one. Where
    there is none, that of its longest step: a line of another shard may agree with it."""
    agrees = (ladder[1:] == ladder[:-1]) & (ladder[1:] != 0)
    shared = np.zeros(ladder.shape, dtype=np.bool_)
    shared[1:] |= agrees
    shared[:-1] |= agrees
    is_shared: Array = np.any(shared, axis=1)
    # Who agrees on a step agrees on all shorter ones.
    steps = np.where(is_shared, shared.sum(axis=1), (ladder != 0).sum(axis=1))
    keys: Array = np.where(steps > 0, ladder[np.arange(len(ladder)), np.maximum(steps, 1) - 1], 0)
    return keys, is_shared


def _runs(breaks: Array, lines: int) -> Iterator[tuple[int, int]]:
    borders = (np.flatnonzero(breaks) + 1).tolist()
    if lines:
        yield from zip([0, *borders], [*borders, lines], strict=True)


def common_bytes(texts: Sequence[bytes]) -> int:
    """How many bytes all of them begin with in common."""
    first, common = texts[0], len(texts[0])
    for text in texts[1:]:
        if not text.startswith(first[:common]):
            common = _agreement(first, text, min(common, len(text)))
    return common


def _agreement(one: bytes, other: bytes, most: int) -> int:
    same, least_different = 0, most + 1
    while least_different - same > 1:
        middle = (same + least_different) // 2
        if one[same:middle] == other[same:middle]:
            same = middle
        else:
            least_different = middle
    return same
