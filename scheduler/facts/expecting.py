"""What many lines are expected to cost before they run, by what is known of their templates. Whole columns at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduler.facts.lengths import Known
from scheduler.facts.sizes import BYTES_PER_TOKEN, CACHED_WEIGHT, OUTPUT_WEIGHT

Array = NDArray[Any]


def expected_outputs(templates: Array, known: Mapping[int, Known], *, limits: Array) -> Array:
    """The tokens that each sequence of a line should generate: the mean of its template, at most its limit. Where
    nothing is known it is the limit, and 0 where there is none either."""
    expected = limits.astype(np.float64)
    keys, values = _table(known, "mean_tokens")
    if not len(keys):
        return expected
    places = np.searchsorted(keys, templates).clip(max=len(keys) - 1)
    is_known = (keys[places] == templates) & (templates != 0)
    means = np.maximum(values[places], 1.0)
    bounded = np.where(limits > 0, np.minimum(means, limits), means)
    return np.where(is_known, bounded, expected)


def expected_work(
    templates: Array,
    known: Mapping[int, Known],
    *,
    prompt_bytes: Array,
    limits: Array,
    sub_requests: Array,
    output_tokens_assumed: float,
) -> Array:
    """What each line should cost, in read tokens: see facts.sizes."""
    outputs = expected_outputs(templates, known, limits=limits)
    outputs = np.where(outputs > 0, outputs, float(output_tokens_assumed))
    prompts = prompt_bytes.astype(np.float64) / BYTES_PER_TOKEN
    keys, cached = _table(known, "cached_share")
    if len(keys):
        places = np.searchsorted(keys, templates).clip(max=len(keys) - 1)
        is_known = (keys[places] == templates) & (templates != 0)
        prompts = np.where(is_known, prompts * (1.0 - (1.0 - CACHED_WEIGHT) * cached[places]), prompts)
    work: Array = prompts + OUTPUT_WEIGHT * outputs * np.maximum(sub_requests, 1)
    return work


def _table(known: Mapping[int, Known], name: str) -> tuple[Array, Array]:
    keys = np.array(sorted(known), dtype=np.uint64)
    return keys, np.array([getattr(known[key], name) for key in sorted(known)], dtype=np.float64)
