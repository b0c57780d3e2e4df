"""A dry run: some lines of a file, spread evenly over it, and what they say of the rest."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

T_95: Final = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131),
    *(2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
"""Student's t for two-sided 95 % at 1, 2, ... degrees of freedom."""


@dataclass(frozen=True, slots=True)
class Picked:
    """A line of the input; `number` counts from 1, as editors do."""

    number: int
    raw: bytes

    @property
    def custom_id(self) -> str | None:
        """None for a line that has none; the server says what is wrong with it."""
        try:
            found = json.loads(self.raw.removeprefix(b"\xef\xbb\xbf"))["custom_id"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        return found if isinstance(found, str) else None


@dataclass(frozen=True, slots=True)
class Sample:
    """`lines` and `bytes` are those of the whole file, blank lines left out."""

    picked: tuple[Picked, ...]
    lines: int
    bytes: int


def sample(path: Path, count: int) -> Sample:
    """Up to `count` lines, each from the middle of its share of the file: the same file gives the same lines.

    Blocking; holds 16 bytes for each line of the file.
    """
    offsets, numbers = array("Q"), array("Q")
    size = offset = 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if raw.strip():
                offsets.append(offset)
                numbers.append(number)
                size += len(raw)
            offset += len(raw)
        picked = []
        for position in spread(count, len(offsets)):
            file.seek(offsets[position])
            picked.append(Picked(numbers[position], file.readline().rstrip(b"\r\n")))
    return Sample(tuple(picked), len(offsets), size)


def spread(count: int, total: int) -> list[int]:
    """`count` of the positions below `total`, at equal distances; all of them when there are no more."""
    count = min(count, total)
    return [(2 * place + 1) * total // (2 * count) for place in range(count)]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A sum over the whole file with its 95 % interval; without one (None) where a single line was run."""

    total: int
    low: int | None
    high: int | None


def project(values: Sequence[int], lines: int, sizes: Sequence[int] | None = None, size: int = 0) -> Estimate:
    """The sum of all `lines` values of which these are known.

    With `sizes` the values are taken to go with the size of their lines, whose sum over the file is `size`: a closer
    estimate for what grows with the text, such as tokens that are read.
    """
    count, known = len(values), sum(values)
    if count == 0:
        return Estimate(0, None, None)
    if sizes is None:
        per_value, total = known / count, known / count * lines
        residuals = [value - per_value for value in values]
    else:
        per_byte = known / max(1, sum(sizes))
        total = per_byte * size
        residuals = [value - per_byte * one for value, one in zip(values, sizes, strict=True)]
    if count >= lines:
        return Estimate(known, known, known)
    if count == 1:
        return Estimate(round(total), None, None)
    deviation = math.sqrt(sum(one * one for one in residuals) / (count - 1))
    half = t_95(count - 1) * deviation / math.sqrt(count) * math.sqrt(1 - count / lines) * lines
    return Estimate(round(total), max(known, math.floor(total - half)), max(known, math.ceil(total + half)))


def t_95(degrees: int) -> float:
    return T_95[degrees - 1] if degrees <= len(T_95) else 1.96 + 2.5 / degrees
