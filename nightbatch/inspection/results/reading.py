"""A comparison in sentences: what the figures say, and what they do not. It never says whether to switch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from nightbatch.inspection.results.agreement import Tally
from nightbatch.inspection.results.comparison import Comparison

FEW: Final = 100
"""Pairs below which an interval is too wide to tell much."""

CUT: Final = frozenset({"length", "max_output_tokens", "max_tokens"})
"""What the APIs call an answer that met its limit."""


def reading(comparison: Comparison) -> list[str]:
    return [*_answered(comparison), *_agreed(comparison), *_lengths(comparison), *_cut(comparison)]


def share(tally: Tally) -> str:
    low, high = tally.interval
    return f"{100 * tally.share:.1f} % (95 % interval {100 * low:.1f} to {100 * high:.1f} %)"


def _answered(found: Comparison) -> Iterator[str]:
    both = found.outcomes[True, True]
    if both == 0:
        yield "No request was answered by both sides: there is nothing to compare."
        return
    ours_alone, theirs_alone = found.outcomes[True, False], found.outcomes[False, True]
    if ours_alone or theirs_alone:
        yield (
            f"{ours_alone:,} requests were answered only by ours and {theirs_alone:,} only by theirs; the rest of this "
            f"is about the {both:,} that both answered."
        )
    if both < FEW:
        yield f"{both} pairs are few: look at the interval, not at the share."


def _agreed(found: Comparison) -> Iterator[str]:
    for path, one in sorted(found.fields.items(), key=lambda item: -item[1].same.of):
        if found.only_field in (None, path) and one.labels.enum_like:
            yield f"Field {path}: the same in {share(one.same)} of the pairs that have it{_kappa(one.labels.kappa)}."
    if found.only_field is not None:
        if found.only_field not in found.fields:
            yield f"No pair has the field {found.only_field}."
        return
    if found.objects.of:
        yield f"Where both answered with a JSON object, it is the same in {share(found.objects)}."
    ours_only, theirs_only = found.one_sided_objects
    if ours_only or theirs_only:
        yield f"Only ours is a JSON object in {ours_only:,} pairs, only theirs in {theirs_only:,}."
    if found.labels.enum_like:
        yield f"The answers are labels; they are the same in {share(found.near)}{_kappa(found.labels.kappa)}."
    elif found.near.of > found.objects.of:
        yield (
            f"The texts are the same, case and space aside, in {share(found.near)}. Free text is seldom the same word "
            "for word, not even from one model twice: read the differences."
        )
    if found.calls.of:
        yield f"Where either side called tools, the calls are the same in {share(found.calls)}."
    if found.cosines.values:
        yield (
            f"Embeddings: the cosine between ours and theirs has median {found.cosines.quantiles[2]:.4f}. It means "
            "something only if both come from the same model; two models have spaces of their own."
        )
    if found.not_comparable:
        yield f"{found.not_comparable:,} pairs could not be compared: other dimensions, or another kind of answer."


def _kappa(kappa: float | None) -> str:
    if kappa is None:
        return ""
    return f"; kappa {kappa:.2f} (0: as if by chance, given how often each label is used; 1: always the same)"


def _lengths(found: Comparison) -> Iterator[str]:
    ours, theirs = found.tokens[1], found.tokens[3]
    if ours and theirs:
        times = f"{ours / theirs:.2f} times as many"
        yield f"Ours wrote {ours:,} tokens, theirs {theirs:,} ({times}); two models may count differently."


def _cut(found: Comparison) -> Iterator[str]:
    ours = sum(count for (mine, _), count in found.finish.items() if mine in CUT)
    theirs = sum(count for (_, other), count in found.finish.items() if other in CUT)
    if ours or theirs:
        yield f"Cut off by the output limit: {ours:,} of ours, {theirs:,} of theirs. A cut answer rarely agrees."
