"""What a line of one batch costs beside a line of another: a document to summarise is not a row to classify."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from scheduler.facts.work import ModelKey, models_of
from store.records import BatchRecord

OUTPUT_WEIGHT = 4.0
"""A generated token costs about this many read ones in a full engine."""

CACHED_WEIGHT = 0.1
BYTES_PER_TOKEN = 4.0
LINES_TOLD = 32
"""From so many ended lines on a batch is judged by them, before that by what its index says."""

MEMORY_LINES = 5_000
RELATIVE_MAX = 50.0


def expected_tokens(*, prompt_bytes: float, output_tokens: float) -> float:
    """What the index says of a line, in read tokens."""
    return prompt_bytes / BYTES_PER_TOKEN + OUTPUT_WEIGHT * output_tokens


@dataclass(slots=True)
class _Mean:
    """Of lines that ended lately."""

    lines: float = 0.0
    used: float = 0.0
    expected: float = 0.0

    def add(self, lines: int, *, used: float, expected: float) -> None:
        keep = math.exp(-lines / MEMORY_LINES)
        self.lines = self.lines * keep + lines
        self.used = self.used * keep + used
        self.expected = self.expected * keep + expected


@dataclass(slots=True)
class LineSizes:
    """Fed with batches as they are seen; answers in lines of the mean size that ended lately on the same model."""

    _expected: dict[str, float] = field(default_factory=dict)
    _seen: dict[str, tuple[int, float]] = field(default_factory=dict)
    _means: dict[ModelKey, _Mean] = field(default_factory=dict)

    def expect(self, batch_id: str, tokens_per_line: float) -> None:
        self._expected[batch_id] = tokens_per_line

    def knows(self, batch_id: str) -> bool:
        return batch_id in self._expected

    def see(self, batch: BatchRecord) -> int:
        """Note how far it is; the lines that ended since the last time. The first time says nothing of a rate."""
        lines, used = ended_lines(batch), _used(batch)
        before = self._seen.get(batch.id)
        self._seen[batch.id] = (lines, used)
        if before is None or lines <= before[0]:
            return 0
        ended, models = lines - before[0], models_of(batch)
        if len(models) == 1:
            expected = self._expected.get(batch.id, used / lines)
            mean = self._means.setdefault(next(iter(models)), _Mean())
            mean.add(ended, used=max(0.0, used - before[1]), expected=expected * ended)
        return ended

    def relative(self, batch: BatchRecord) -> float:
        means = [self._means[key] for key in models_of(batch) if key in self._means]
        if len(means) != 1 or means[0].lines <= 0:
            return 1.0
        mean, lines = means[0], ended_lines(batch)
        if lines >= LINES_TOLD:
            return _ratio(_used(batch) / lines, mean.used / mean.lines)
        return _ratio(self.expected(batch.id), mean.expected / mean.lines)

    def relative_of(self, model: ModelKey, tokens_per_line: float) -> float:
        """Of a batch that nothing of has run yet."""
        mean = self._means.get(model)
        return 1.0 if mean is None or mean.lines <= 0 else _ratio(tokens_per_line, mean.expected / mean.lines)

    def expected(self, batch_id: str) -> float:
        """0 while it is not known."""
        return self._expected.get(batch_id, 0.0)

    def forget_all_but(self, batch_ids: frozenset[str]) -> None:
        for known in (self._expected, self._seen):
            for gone in known.keys() - batch_ids:
                del known[gone]


def ended_lines(batch: BatchRecord) -> int:
    """Lines that an engine has answered: broken ones have their results from the start."""
    return max(0, batch.counts.completed + batch.counts.failed - batch.invalid_lines)


def _used(batch: BatchRecord) -> float:
    usage = batch.usage
    read = usage.input_tokens - (1.0 - CACHED_WEIGHT) * usage.cached_tokens
    return max(0.0, read) + OUTPUT_WEIGHT * usage.output_tokens


def _ratio(own: float, mean: float) -> float:
    if own <= 0 or mean <= 0:
        return 1.0
    return min(RELATIVE_MAX, max(1.0 / RELATIVE_MAX, own / mean))
