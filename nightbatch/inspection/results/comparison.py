"""What pairs of answers come to, taken in one by one: all that is kept are counts and the first differences."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from nightbatch.inspection.results.agreement import (
    Labels,
    Samples,
    Tally,
    cosine,
    equal,
    leaves,
    normal,
    word_overlap,
)
from nightbatch.inspection.results.answers import Answer, Form, parse_json

FIELDS_MAX: Final = 200
"""JSON fields that are measured one by one; the objects as wholes are measured whatever they hold."""

EXAMPLES_MAX: Final = 5
CAUSES_MAX: Final = 100
SAME_DIRECTION: Final = 0.999
"""Embeddings with a cosine from here on are taken as the same."""


@dataclass(slots=True)
class Difference:
    custom_id: str
    what: str
    ours: Any
    theirs: Any


@dataclass(slots=True)
class FieldAgreement:
    """`same.of` counts pairs that both have the field; `missing` those where one side lacks it."""

    same: Tally = field(default_factory=Tally)
    labels: Labels = field(default_factory=Labels)
    missing: int = 0


@dataclass(slots=True)
class Comparison:
    """Give it every pair. `only_field` narrows the differences to one JSON field."""

    only_field: str | None = None
    examples_max: int = EXAMPLES_MAX
    outcomes: Counter[tuple[bool, bool]] = field(default_factory=Counter)
    """(ours answered, theirs answered)"""

    causes: tuple[Counter[str], Counter[str]] = field(default_factory=lambda: (Counter(), Counter()))
    models: tuple[Counter[str], Counter[str]] = field(default_factory=lambda: (Counter(), Counter()))
    forms: Counter[tuple[Form, Form]] = field(default_factory=Counter)
    exact: Tally = field(default_factory=Tally)
    near: Tally = field(default_factory=Tally)
    calls: Tally = field(default_factory=Tally)
    objects: Tally = field(default_factory=Tally)
    one_sided_objects: list[int] = field(default_factory=lambda: [0, 0])
    """Pairs in which only our text is JSON, and only theirs."""

    fields: dict[str, FieldAgreement] = field(default_factory=dict)
    labels: Labels = field(default_factory=Labels)
    overlap: Samples = field(default_factory=Samples)
    characters: Samples = field(default_factory=Samples)
    prompt_tokens: Samples = field(default_factory=Samples)
    output_tokens: Samples = field(default_factory=Samples)
    tokens: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    """Of the pairs that both answered: our prompt and output tokens, then theirs."""

    finish: Counter[tuple[str, str]] = field(default_factory=Counter)
    cosines: Samples = field(default_factory=Samples)
    not_comparable: int = 0
    others: Tally = field(default_factory=Tally)
    examples: list[Difference] = field(default_factory=list)
    farthest: list[tuple[float, int, str]] = field(default_factory=list)
    """The embeddings that are farthest apart: (-cosine, order, custom_id)."""

    def add(self, ours: Answer, theirs: Answer) -> Difference | None:
        """The difference between the two, if there is any."""
        answered = ours.error is None, theirs.error is None
        self.outcomes[answered] += 1
        for side, answer in enumerate((ours, theirs)):
            self._note(side, answer)
        if not all(answered):
            if any(answered):
                return self._differing(ours, "answered by one side", *map(_whole, (ours, theirs)))
            return None
        self.forms[ours.form, theirs.form] += 1
        self._count_tokens(ours, theirs)
        if ours.form is not theirs.form:
            self.not_comparable += 1
            return self._differing(ours, "form", ours.form.value, theirs.form.value)
        if ours.form is Form.TEXT:
            return self._add_texts(ours, theirs)
        if ours.form is Form.VECTORS:
            return self._add_vectors(ours, theirs)
        same = equal(ours.body, theirs.body)
        self.others.add(same)
        return None if same else self._differing(ours, "body", ours.body, theirs.body)

    def _note(self, side: int, answer: Answer) -> None:
        if answer.error is not None:
            causes = self.causes[side]
            causes[answer.error if answer.error in causes or len(causes) < CAUSES_MAX else "others"] += 1
        elif answer.model and (answer.model in self.models[side] or len(self.models[side]) < CAUSES_MAX):
            self.models[side][answer.model] += 1

    def _count_tokens(self, ours: Answer, theirs: Answer) -> None:
        self.prompt_tokens.add_ratio(ours.prompt_tokens, theirs.prompt_tokens)
        self.output_tokens.add_ratio(ours.output_tokens, theirs.output_tokens)
        counts = (ours.prompt_tokens, ours.output_tokens, theirs.prompt_tokens, theirs.output_tokens)
        self.tokens = [total + count for total, count in zip(self.tokens, counts, strict=True)]

    def _add_texts(self, ours: Answer, theirs: Answer) -> Difference | None:
        left, right = normal(ours.text), normal(theirs.text)
        self.exact.add(ours.text == theirs.text)
        self.near.add(left == right)
        self.characters.add_ratio(len(ours.text), len(theirs.text))
        self.overlap.add(word_overlap(left, right))
        self.finish[ours.finish_reason, theirs.finish_reason] += 1
        same_calls = ours.calls == theirs.calls
        if ours.calls or theirs.calls:
            self.calls.add(same_calls)
        objects = parse_json(ours.text), parse_json(theirs.text)
        found = self._add_objects(ours, theirs, *objects)
        if found is not None or self.only_field is not None:
            return found
        if not same_calls:
            return self._differing(ours, "tool calls", list(ours.calls), list(theirs.calls))
        both = isinstance(objects[0], dict) and isinstance(objects[1], dict)
        if left == right or (both and equal(*objects)):  # the same object may be written differently
            return None
        return self._differing(ours, "text", ours.text, theirs.text)

    def _add_objects(self, ours: Answer, theirs: Answer, left: Any, right: Any) -> Difference | None:
        if not isinstance(left, dict) or not isinstance(right, dict):
            if isinstance(left, dict) != isinstance(right, dict):
                self.one_sided_objects[isinstance(right, dict)] += 1
            if ours.text or theirs.text:
                self.labels.add(normal(ours.text), normal(theirs.text))
            return None
        self.objects.add(equal(left, right))
        found: list[tuple[str, Any, Any]] = []
        mine, yours = leaves(left), leaves(right)
        for path in dict.fromkeys((*mine, *yours)):
            if path not in self.fields and len(self.fields) >= FIELDS_MAX:
                continue
            counted = self.fields.setdefault(path, FieldAgreement())
            if path not in mine or path not in yours:
                counted.missing += 1
                found.append((path, mine.get(path), yours.get(path)))
                continue
            same = equal(mine[path], yours[path])
            counted.same.add(same)
            counted.labels.add(mine[path], yours[path])
            if not same:
                found.append((path, mine[path], yours[path]))
        chosen = [one for one in found if self.only_field in (None, one[0])]
        if not chosen:
            return None
        path, one, other = chosen[0]
        more = f" and {len(chosen) - 1} more fields" if len(chosen) > 1 else ""
        return self._differing(ours, path + more, one, other)

    def _add_vectors(self, ours: Answer, theirs: Answer) -> Difference | None:
        if len(ours.vectors) != len(theirs.vectors):
            self.not_comparable += 1
            return self._differing(ours, "vectors", len(ours.vectors), len(theirs.vectors))
        lowest = 1.0
        for left, right in zip(ours.vectors, theirs.vectors, strict=True):
            found = cosine(left, right)
            if found is None:
                self.not_comparable += 1
                return self._differing(ours, "dimensions", len(left), len(right))
            self.cosines.add(found)
            lowest = min(lowest, found)
        entry = (-lowest, -self.outcomes.total(), ours.custom_id)
        if len(self.farthest) < self.examples_max:
            heapq.heappush(self.farthest, entry)
        else:
            heapq.heappushpop(self.farthest, entry)
        return None if lowest >= SAME_DIRECTION else Difference(ours.custom_id, "cosine", lowest, None)

    def _differing(self, answer: Answer, what: str, ours: Any, theirs: Any) -> Difference:
        difference = Difference(answer.custom_id, what, ours, theirs)
        if len(self.examples) < self.examples_max:
            self.examples.append(difference)
        return difference


def _whole(answer: Answer) -> Any:
    if answer.error is not None:
        return {"error": answer.error}
    return answer.text if answer.form is Form.TEXT else answer.form.value
