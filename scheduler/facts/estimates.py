"""Estimates made before anything has run: KV tokens of a line, and the rate at which a model's lines end."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

CERTAINLY_TOO_LONG = 4
"""A prompt of so many times the model's context, by its bytes, does not fit whatever its tokenizer makes of it."""


@dataclass(frozen=True, slots=True)
class LineSize:
    """What a line's index record says of its size. `output_tokens` 0: the client set no limit."""

    prompt_bytes: int
    output_tokens: int
    sub_requests: int


def kv_tokens(
    size: LineSize, *, bytes_per_token: float, output_tokens_assumed: int, context_tokens_max: int | None
) -> int:
    """The most KV cache a line may hold at once, all of its sub-requests together.

    `prompt_bytes` is the line's total, so a prompt that fans out (`n`) is counted once and its outputs `n` times.
    No sequence can outgrow the model's context, whatever the client asks for. What is far too long for it is refused
    before it has any cache: a file full of such lines must not run one by one.
    """
    sub_requests = max(1, size.sub_requests)
    prompt_tokens = math.ceil(size.prompt_bytes / bytes_per_token)
    if context_tokens_max is not None and prompt_tokens > CERTAINLY_TOO_LONG * context_tokens_max * sub_requests:
        return sub_requests
    tokens = prompt_tokens + (size.output_tokens or output_tokens_assumed) * sub_requests
    if context_tokens_max is not None:
        tokens = min(tokens, context_tokens_max * sub_requests)
    return max(1, tokens)


LINES_TELLING_MIN = 1e-3
"""Of lines so long ago that less than this is left of them, nothing is concluded any more: days without one would make
a line take for ever."""


@dataclass(slots=True)
class RateMeter:
    """Seconds per line, smoothed over about `memory_seconds` of busy time. Idle time is not counted."""

    memory_seconds: float = 60.0
    seconds_per_line: float = 0.0
    _lines: float = field(default=0.0, repr=False)
    _seconds: float = field(default=0.0, repr=False)

    def add(self, *, lines: int, busy_seconds: float) -> None:
        if busy_seconds <= 0:
            return
        keep = math.exp(-busy_seconds / self.memory_seconds)
        self._lines = self._lines * keep + lines
        self._seconds = self._seconds * keep + busy_seconds
        if self._lines >= LINES_TELLING_MIN:
            self.seconds_per_line = self._seconds / self._lines
