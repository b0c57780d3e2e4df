"""How long answers turn out, told by those that came before: running quantiles by template.

A template is what many lines have in common (a prefix, instructions, a schema), as a number; 0 is none. Beside the
templates each batch is a class of its own: lines that share nothing with each other still belong together.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable

import msgspec

from store.quality import BUCKETS_PER_DOUBLING, EXACT_TOKENS, bucket_of

TEMPLATES_MAX = 4096
"""Templates known at once; the one that was used longest ago makes room."""

TEMPLATES_KEPT_MAX = 512
"""... and over a restart."""

BATCHES_MAX = 256
ANSWERS_TOLD = 16
"""Fewer answers of a template tell nothing yet."""

ANSWERS_MEMORY = 2048
"""Answers at which half of them are forgotten, so that what changes is learnt again."""

PEAK_SHARE = 0.9
"""Of the answers of a template so many are no longer than what is counted for it in an engine's memory."""

ALIKE_PER_CENT = 10
"""What is known of a template is worked out anew when its answers have grown by so much."""

BEYOND = -1
"""The bucket of answers that ended at their limit: nobody knows how long they would have been."""


class Sums(msgspec.Struct, array_like=True):
    """Of the answers of one template. `estimated_tokens` is what was counted for their prompts."""

    template: int
    answers: int = 0
    output_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    estimated_tokens: int = 0
    buckets: dict[int, int] = {}


class Known(msgspec.Struct, frozen=True):
    """What a template's answers tell. `peak_tokens` None: longer than their limits let them become.

    `prompt_scale` is a prompt's tokens by what was estimated for it, `cached_share` the part of them that the engine
    had already.
    """

    mean_tokens: float
    peak_tokens: int | None
    prompt_scale: float
    cached_share: float


class Lengths:
    """One template's answers."""

    __slots__ = ("_known", "_known_of", "sums")

    def __init__(self, sums: Sums) -> None:
        self.sums = sums
        self._known: Known | None = None
        self._known_of = 0

    def add(self, output_tokens: int, bucket: int, *, prompt_tokens: int, cached_tokens: int, estimated: int) -> None:
        sums = self.sums
        sums.buckets[bucket] = sums.buckets.get(bucket, 0) + 1
        sums.answers += 1
        sums.output_tokens += output_tokens
        sums.prompt_tokens += prompt_tokens
        sums.cached_tokens += cached_tokens
        sums.estimated_tokens += estimated
        if sums.answers >= ANSWERS_MEMORY:
            self._forget_half()

    def _forget_half(self) -> None:
        sums = self.sums
        sums.buckets = {bucket: (count + 1) // 2 for bucket, count in sums.buckets.items()}
        before, sums.answers = sums.answers, sum(sums.buckets.values())
        keep = sums.answers / before
        sums.output_tokens = round(sums.output_tokens * keep)
        sums.prompt_tokens = round(sums.prompt_tokens * keep)
        sums.cached_tokens = round(sums.cached_tokens * keep)
        sums.estimated_tokens = round(sums.estimated_tokens * keep)
        self._known_of = 0

    def known(self) -> Known | None:
        """None while too few answers have been seen."""
        sums = self.sums
        if sums.answers < ANSWERS_TOLD:
            return None
        if self._known is None or sums.answers * 100 >= self._known_of * (100 + ALIKE_PER_CENT):
            self._known, self._known_of = _known(sums), sums.answers
        return self._known


def _known(sums: Sums) -> Known:
    return Known(
        mean_tokens=sums.output_tokens / sums.answers,
        peak_tokens=quantile(sums.buckets, PEAK_SHARE),
        prompt_scale=sums.prompt_tokens / sums.estimated_tokens if sums.estimated_tokens else 1.0,
        cached_share=min(1.0, sums.cached_tokens / sums.prompt_tokens) if sums.prompt_tokens else 0.0,
    )


def quantile(buckets: dict[int, int], share: float) -> int | None:
    """The length that `share` of the answers do not exceed, at most 9 % too high; None when it is beyond the limits."""
    needed = math.ceil(sum(buckets.values()) * share)
    for bucket in sorted(found for found in buckets if found != BEYOND):
        needed -= buckets[bucket]
        if needed <= 0:
            return upper_edge(bucket)
    return None


def upper_edge(bucket: int) -> int:
    """The longest answer of a bucket."""
    if bucket < EXACT_TOKENS:
        return bucket
    return math.ceil(EXACT_TOKENS * 2 ** ((bucket - EXACT_TOKENS + 1) / BUCKETS_PER_DOUBLING)) - 1


class LengthBook:
    """All templates and the batches that run now. Bounded; what is used stays."""

    def __init__(self, kept: Iterable[Sums] = ()) -> None:
        self._templates: OrderedDict[int, Lengths] = OrderedDict((sums.template, Lengths(sums)) for sums in kept)
        self._batches: OrderedDict[str, Lengths] = OrderedDict()
        self.answers = 0
        """Seen since the start, to tell whether anything has changed."""

    def __len__(self) -> int:
        return len(self._templates)

    def learn(
        self,
        template: int,
        batch_id: str,
        output_tokens: int,
        *,
        at_limit: bool,
        prompt_tokens: int = 0,
        cached_tokens: int = 0,
        estimated: int = 0,
    ) -> None:
        self.answers += 1
        bucket = BEYOND if at_limit else bucket_of(output_tokens)
        for lengths in self._of(template, batch_id):
            lengths.add(
                output_tokens,
                bucket,
                prompt_tokens=prompt_tokens,
                cached_tokens=cached_tokens,
                estimated=estimated,
            )

    def _of(self, template: int, batch_id: str) -> list[Lengths]:
        batch = self._batches.get(batch_id)
        if batch is None:
            batch = self._batches[batch_id] = Lengths(Sums(0, buckets={}))
            if len(self._batches) > BATCHES_MAX:
                self._batches.popitem(last=False)
        else:
            self._batches.move_to_end(batch_id)
        if not template:
            return [batch]
        found = self._templates.get(template)
        if found is None:
            found = self._templates[template] = Lengths(Sums(template, buckets={}))
            if len(self._templates) > TEMPLATES_MAX:
                self._templates.popitem(last=False)
        else:
            self._templates.move_to_end(template)
        return [found, batch]

    def known(self, template: int, batch_id: str = "") -> Known | None:
        """Of a line: what its template tells, else what its batch does."""
        lengths = self._templates.get(template)
        known = None if lengths is None else lengths.known()
        if known is None and (lengths := self._batches.get(batch_id)) is not None:
            known = lengths.known()
        return known

    def all_known(self) -> dict[int, Known]:
        """What is known of templates now, for work on a thread: the book itself belongs to the event loop."""
        found = ((template, lengths.known()) for template, lengths in self._templates.items())
        return {template: known for template, known in found if known is not None}

    def forget_batches(self, running: frozenset[str]) -> None:
        for gone in self._batches.keys() - running:
            del self._batches[gone]

    def encode(self) -> bytes:
        """The templates that were used last, without the batches."""
        some = list(self._templates.values())[-TEMPLATES_KEPT_MAX:]
        return msgspec.json.encode([lengths.sums for lengths in some])


def decode(data: bytes) -> LengthBook:
    """Raises msgspec.DecodeError."""
    return LengthBook(msgspec.json.decode(data, type=list[Sums]))
