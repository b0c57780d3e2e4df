"""Figures of agreement over pairs of values that come one by one."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

Z_95: Final = 1.959963984540054
LABELS_MAX: Final = 64
"""Different values on one side, above which a value is free text and no label."""

LABEL_CHARS_MAX: Final = 80
QUANTILES: Final = (0.05, 0.25, 0.5, 0.75, 0.95)


def wilson(same: int, of: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's interval for a share: honest for small counts and near 0 and 1. (0, 1) where nothing was counted."""
    if of == 0:
        return 0.0, 1.0
    share, square = same / of, z * z
    middle = share + square / (2 * of)
    spread = z * math.sqrt(share * (1 - share) / of + square / (4 * of * of))
    low, high = (middle - spread) / (1 + square / of), (middle + spread) / (1 + square / of)
    return (0.0 if same == 0 else max(0.0, low)), (1.0 if same == of else min(1.0, high))


@dataclass(slots=True)
class Tally:
    same: int = 0
    of: int = 0

    def add(self, same: bool) -> None:
        self.same += same
        self.of += 1

    @property
    def share(self) -> float:
        return self.same / self.of if self.of else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.same, self.of)


@dataclass(slots=True)
class Labels:
    """Which label ours gave where theirs gave which. Given up (`free_text`) where the values turn out to be none."""

    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    free_text: bool = False
    _ours: set[str] = field(default_factory=set)
    _theirs: set[str] = field(default_factory=set)

    def add(self, ours: Any, theirs: Any) -> None:
        if self.free_text:
            return
        left, right = label_of(ours), label_of(theirs)
        if left is None or right is None:
            self.give_up()
            return
        self._ours.add(left)
        self._theirs.add(right)
        if max(len(self._ours), len(self._theirs)) > LABELS_MAX:
            self.give_up()
            return
        self.pairs[left, right] += 1

    def give_up(self) -> None:
        self.free_text = True
        self.pairs.clear()
        self._ours.clear()
        self._theirs.clear()

    @property
    def total(self) -> int:
        return self.pairs.total()

    @property
    def enum_like(self) -> bool:
        """Few values for many pairs, and more than one."""
        values = len(self._ours | self._theirs)
        return not self.free_text and values > 1 and 2 * values <= self.total

    def confusions(self, most: int) -> list[tuple[str, str, int]]:
        """The most frequent pairs that differ."""
        differing = Counter({pair: count for pair, count in self.pairs.items() if pair[0] != pair[1]})
        return [(ours, theirs, count) for (ours, theirs), count in differing.most_common(most)]

    @property
    def kappa(self) -> float | None:
        """Cohen's kappa: agreement beyond what the frequencies of the labels alone would give; None without any."""
        total = self.total
        if total == 0:
            return None
        ours: Counter[str] = Counter()
        theirs: Counter[str] = Counter()
        same = 0
        for (left, right), count in self.pairs.items():
            ours[left] += count
            theirs[right] += count
            same += count if left == right else 0
        by_chance = sum(ours[label] * theirs[label] for label in ours) / total**2
        return None if by_chance >= 1 else (same / total - by_chance) / (1 - by_chance)


def label_of(value: Any) -> str | None:
    """A value as a label; None for what cannot be one."""
    if isinstance(value, str):
        return value if len(value) <= LABEL_CHARS_MAX and "\n" not in value else None
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value) if isinstance(value, int) else None


@dataclass(slots=True)
class Samples:
    """Numbers, 4 bytes each, for their quantiles."""

    values: array[float] = field(default_factory=lambda: array("f"))

    def add(self, value: float) -> None:
        self.values.append(value)

    def add_ratio(self, ours: float, theirs: float) -> None:
        """Ours over theirs, where both say something."""
        if ours > 0 and theirs > 0:
            self.values.append(ours / theirs)

    @property
    def quantiles(self) -> tuple[float, ...]:
        """At QUANTILES; empty where there are no samples."""
        if not self.values:
            return ()
        return tuple(float(value) for value in np.quantile(np.frombuffer(self.values, np.float32), QUANTILES))


def normal(text: str) -> str:
    """Text with case and white space set aside."""
    return " ".join(text.split()).casefold()


def word_overlap(ours: str, theirs: str) -> float:
    """The share of words that both have (F1 over words with their counts), 0 to 1."""
    left, right = Counter(ours.split()), Counter(theirs.split())
    words = left.total() + right.total()
    return 2 * (left & right).total() / words if words else 1.0


def cosine(ours: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any]) -> float | None:
    """None where the two cannot be compared: other lengths, or a vector of zeros."""
    if ours.shape != theirs.shape:
        return None
    left, right = ours.astype(np.float64), theirs.astype(np.float64)
    norm = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / norm if norm > 0 and math.isfinite(norm) else None


def leaves(value: Any, *, depth_max: int = 8) -> dict[str, Any]:
    """The fields of a JSON object by dotted path; a list is one value."""
    found: dict[str, Any] = {}

    def walk(node: Any, path: str, depth: int) -> None:
        if isinstance(node, dict) and node and depth < depth_max:
            for name, inner in node.items():
                walk(inner, f"{path}.{name}" if path else str(name), depth + 1)
        elif path:
            found[path] = node

    walk(value, "", 0)
    return found


def equal(ours: Any, theirs: Any) -> bool:
    """JSON equality: 1 is 1.0, but true is not 1."""
    if isinstance(ours, bool) != isinstance(theirs, bool):
        return False
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(equal(value, theirs[name]) for name, value in ours.items())
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(equal, ours, theirs))
    return bool(ours == theirs)
