"""What a tier means to the scheduler: its weight, and its right to run in peak hours."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Outside(StrEnum):
    """What work does outside the off-peak windows. `inherit` is what is said for all (`[windows] outside`)."""

    INHERIT = "inherit"
    FILL = "fill"
    HOLD = "hold"


@dataclass(frozen=True, slots=True)
class TierTerms:
    """Of two batches of one size the one with twice the weight goes first, unless the other is four times as old
    beside its size."""

    weight: float = 1.0
    outside: Outside = Outside.INHERIT

    def __post_init__(self) -> None:
        if self.weight <= 0:
            raise ValueError(f"a tier's weight must be above 0, not {self.weight}")


DEFAULT_TERMS = TierTerms()
