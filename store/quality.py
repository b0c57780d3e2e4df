"""The quality of many results, as counts that add up: of the groups of a shard, of the shards of a batch.

However many results, what is kept has a fixed size; the limits are named here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from store.answers import CONDITIONS, FAILURES, Answer, Cause, read_answer
from store.asked import AskedReader

GROUPS_MAX: Final = 50
"""Causes of errors told apart; the rest counts as `other`."""

EXAMPLES_MAX: Final = 3
EXAMPLE_CHARS_MAX: Final = 64
FINISH_REASONS_MAX: Final = 16
LABELLED_PROPERTIES_MAX: Final = 16
LABELS_MAX: Final = 64
OTHER: Final = "other"

EXACT_TOKENS: Final = 16
BUCKETS_PER_DOUBLING: Final = 8
"""Lengths from EXACT_TOKENS on are told apart to within 9 %."""

QUANTILES: Final = (50, 90, 99)


class ErrorGroup(msgspec.Struct):
    """Failed lines with one cause. `lines` counts the requests of the file from 1."""

    status_code: int | None
    code: str | None
    message: str
    count: int
    lines: list[int]
    custom_ids: list[str]


class Quality(msgspec.Struct):
    lines: int = 0
    conditions: dict[str, int] = {}
    finish_reasons: dict[str, int] = {}
    json_asked: int = 0
    lengths: dict[int, int] = {}
    length_max: int = 0
    labels: dict[str, dict[str, int]] = {}
    groups: dict[str, ErrorGroup] = {}
    other_errors: int = 0

    def add(self, line_no: int, answer: Answer) -> None:
        self.lines += 1
        for name in answer.conditions:
            _count(self.conditions, name, 1, len(CONDITIONS))
        for reason in answer.finish_reasons:
            _count(self.finish_reasons, reason[:EXAMPLE_CHARS_MAX], 1, FINISH_REASONS_MAX)
        self.json_asked += answer.json_asked
        if answer.tokens is not None and answer.tokens >= 0:
            bucket = bucket_of(answer.tokens)
            self.lengths[bucket] = self.lengths.get(bucket, 0) + 1
            self.length_max = max(self.length_max, answer.tokens)
        for name, label in answer.labels:
            self._count_label(name, label, 1)
        if answer.cause is not None:
            self._add_cause(answer.cause, line_no + 1, answer.custom_id)

    def merge(self, other: Quality) -> None:
        self.lines += other.lines
        for name, count in other.conditions.items():
            _count(self.conditions, name, count, len(CONDITIONS))
        for name, count in other.finish_reasons.items():
            _count(self.finish_reasons, name, count, FINISH_REASONS_MAX)
        self.json_asked += other.json_asked
        for bucket, count in other.lengths.items():
            self.lengths[bucket] = self.lengths.get(bucket, 0) + count
        self.length_max = max(self.length_max, other.length_max)
        for name, labels in other.labels.items():
            for label, count in labels.items():
                self._count_label(name, label, count)
        for key, group in other.groups.items():
            self._add_group(key, group)
        self.other_errors += other.other_errors

    def _count_label(self, name: str, label: str, count: int) -> None:
        if name not in self.labels and len(self.labels) >= LABELLED_PROPERTIES_MAX:
            return
        _count(self.labels.setdefault(name, {}), label, count, LABELS_MAX)

    def _add_cause(self, cause: Cause, line: int, custom_id: str) -> None:
        key = f"{cause.status_code}|{cause.code}|{cause.message}"
        ids = [custom_id[:EXAMPLE_CHARS_MAX]]
        self._add_group(key, ErrorGroup(cause.status_code, cause.code, cause.message, 1, [line], ids))

    def _add_group(self, key: str, group: ErrorGroup) -> None:
        mine = self.groups.get(key)
        if mine is None:
            if len(self.groups) >= GROUPS_MAX:
                self.other_errors += group.count
                return
            self.groups[key] = msgspec.structs.replace(group, lines=[*group.lines], custom_ids=[*group.custom_ids])
            return
        mine.count += group.count
        if len(mine.lines) < EXAMPLES_MAX or group.lines[0] < mine.lines[-1]:
            examples = sorted(zip([*mine.lines, *group.lines], [*mine.custom_ids, *group.custom_ids], strict=True))
            mine.lines = [line for line, _ in examples[:EXAMPLES_MAX]]
            mine.custom_ids = [custom_id for _, custom_id in examples[:EXAMPLES_MAX]]

    def quantile(self, percent: int) -> int | None:
        """The length that `percent` of the answers do not exceed, to within a bucket; None without any."""
        total = sum(self.lengths.values())
        if not total:
            return None
        needed = math.ceil(total * percent / 100)
        for bucket in sorted(self.lengths):
            needed -= self.lengths[bucket]
            if needed <= 0:
                return min(length_of(bucket), self.length_max)
        return self.length_max

    def encode(self) -> str:
        return msgspec.json.encode(self).decode()

    @classmethod
    def decode(cls, text: str | None) -> Quality:
        return cls() if text is None else _decode(text)


_decode = msgspec.json.Decoder(Quality).decode


def summary_of(text: str | None) -> dict[str, Any] | None:
    """What a client sees of the quality of a batch; None while nothing is known."""
    if text is None:
        return None
    found = Quality.decode(text)
    answers = {name: count for name, count in _ordered(found.conditions) if name not in FAILURES}
    groups = sorted(found.groups.values(), key=lambda group: (-group.count, group.lines[0]))
    return {
        "lines": found.lines,
        "failed": {name: count for name, count in _ordered(found.conditions) if name in FAILURES},
        "answers": answers,
        "finish_reasons": dict(sorted(found.finish_reasons.items(), key=lambda item: -item[1])),
        "json_answers": found.json_asked,
        "output_tokens": None
        if not found.lengths
        else {**{f"p{percent}": found.quantile(percent) for percent in QUANTILES}, "max": found.length_max},
        "labels": {name: dict(sorted(one.items(), key=lambda item: -item[1])) for name, one in found.labels.items()},
        "error_groups": [msgspec.to_builtins(group) for group in groups],
        "other_errors": found.other_errors,
    }


def merged(former: str | None, more: str) -> str:
    quality = Quality.decode(former)
    quality.merge(Quality.decode(more))
    return quality.encode()


def quality_of(results: Iterable[tuple[int, bool, bytes, bytes | None]], asked: AskedReader) -> Quality:
    """Of (line_no, succeeded, result line, request body or None where it is lost)."""
    quality = Quality()
    for line_no, succeeded, raw, body in results:
        wanted = asked.read(body) if succeeded and body is not None else None
        quality.add(line_no, read_answer(raw, succeeded=succeeded, asked=wanted))
    return quality


def bucket_of(tokens: int) -> int:
    if tokens < EXACT_TOKENS:
        return tokens
    return EXACT_TOKENS + int(BUCKETS_PER_DOUBLING * math.log2(tokens / EXACT_TOKENS))


def length_of(bucket: int) -> int:
    """The middle of a bucket."""
    if bucket < EXACT_TOKENS:
        return bucket
    return round(EXACT_TOKENS * 2 ** ((bucket - EXACT_TOKENS + 0.5) / BUCKETS_PER_DOUBLING))


def _ordered(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return [(name, counts[name]) for name in CONDITIONS if name in counts]


def _count(counts: dict[str, int], name: str, more: int, names_max: int) -> None:
    if name not in counts and len(counts) >= names_max:
        name = OTHER
    counts[name] = counts.get(name, 0) + more
