"""One sequence on the simulated device, from waiting to its last token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class SequenceState:
    """A prompt and the number of tokens that it will generate (0: a pooling request)."""

    prompt_tokens: int
    block_hashes: Sequence[int]
    output_tokens: int
    priority: int
    watched: bool = False  # somebody streams it: report every token
    arrival: int = 0
    name: str = ""
    prefilled: int = 0
    cached_tokens: int = 0
    generated: int = 0
    private_blocks: int = 0
    prefill_target: int = 0

    @property
    def order(self) -> tuple[int, int]:
        return (self.priority, self.arrival)

    @property
    def is_online(self) -> bool:
        return self.priority <= 0

    @property
    def decoding(self) -> bool:
        return self.prefilled >= self.prefill_target

    @property
    def finished(self) -> bool:
        return self.decoding and self.generated >= self.output_tokens

    @property
    def context_tokens(self) -> int:
        return self.prefilled + self.generated
