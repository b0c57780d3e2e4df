"""Text, tokens and vectors of the simulation, each a pure function of its input.

A token is about four bytes: of a prompt simply four bytes, of an answer one short word. Vectors count words by hash, so
that texts with words in common are near each other and scores mean something.
"""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Sequence

import xxhash

BYTES_PER_TOKEN = 4

_TEXT = """
the and for you are not but all any can her was one our out day get has him his how man new now old see two
way who boy did its let put say she too use add air ask bed big box buy car cat cup cut dog ear eat end eye
far few fly fun gas hat hot ice job key kid law leg lie lot low map may met mix net oil own pay pen pet red
run sea set sit sky son sun tax tea ten tip top toy try van war wet win yes
"""
_WORDS = _TEXT.split()
WORDS = tuple(word.encode() for word in _WORDS)


def prompt_tokens(text: bytes) -> int:
    return max(1, -(-len(text) // BYTES_PER_TOKEN))


def block_hashes(text: bytes, block_tokens: int) -> tuple[int, ...]:
    """Chained hashes of the full blocks of a prompt: equal hashes mean an equal prefix up to there."""
    block_bytes = block_tokens * BYTES_PER_TOKEN
    hashes: list[int] = []
    previous = 0
    for start in range(0, len(text) - block_bytes + 1, block_bytes):
        previous = xxhash.xxh3_64_intdigest(text[start : start + block_bytes], seed=previous)
        hashes.append(previous)
    return tuple(hashes)


def words(chance: random.Random, count: int) -> list[str]:
    """`count` one-word tokens; joined they are a text without a leading space."""
    picked = chance.choices(_WORDS, k=count)
    return [word if position == 0 else f" {word}" for position, word in enumerate(picked)]


def words_like(digest: int, count: int, *, unlike: str) -> list[str]:
    """Up to `count` different words with a leading space, none of them `unlike`."""
    start = digest % len(_WORDS)
    others = [f" {word}" for word in (*_WORDS[start:], *_WORDS[:start]) if word != unlike.strip()]
    return others[: max(count, 0)]


def pieces_of(text: str) -> list[str]:
    """A given text in token-sized pieces."""
    return [text[start : start + BYTES_PER_TOKEN] for start in range(0, len(text), BYTES_PER_TOKEN)]


def vector(text: str, dimensions: int) -> list[float]:
    """A unit vector in float32 precision."""
    counts = [1e-3] * dimensions  # keeps the vector of an empty text away from zero
    for word in text.lower().split():
        digest = xxhash.xxh3_64_intdigest(word.strip(".,;:!?\"'()").encode())
        counts[digest % dimensions] += 1.0 if digest >> 63 else -1.0
    norm = math.sqrt(sum(value * value for value in counts))
    return list(struct.unpack(f"<{dimensions}f", float32_bytes([value / norm for value in counts])))


def float32_bytes(values: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def similarity(left: str, right: str, dimensions: int) -> float:
    """Cosine, moved into 0 to 1."""
    pairs = zip(vector(left, dimensions), vector(right, dimensions), strict=True)
    return round((1.0 + sum(a * b for a, b in pairs)) / 2.0, 6)
