"""The order in which a batch's lines run, and where it is cut into shards.

Lines of one model stand together; within a model, lines whose prompts begin alike; within those, the longest expected
output first, so that no straggler is left for the end. Where nothing repeats and nothing differs, file order remains.
Groups that may run equally long stand in the order of their hashes, which is the same in every file: batches that ask
about the same things come to the same prefix at about the same time.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

LADDER_STEPS = 4
SHARDS_BEFORE_LARGER = 512
LARGER_MAX = 2

Array = NDArray[Any]


class Packing(StrEnum):
    """How the lines of batches are put together: by common prefixes and expected lengths, or as the file has them."""

    PREFIX = "prefix"
    FILE = "file"


def file_order(*, model: Array) -> Array:
    """A permutation of the line numbers (u32): models together, else as the file has them."""
    order: Array = np.argsort(model, kind="stable").astype(np.uint32)
    return order


def execution_order(*, model: Array, ladder_step: Callable[[int], Array], output_tokens: Array) -> Array:
    """A permutation of the line numbers (u32).

    `ladder_step` gives for each line the hash of the first 256, 1,024, 4,096 or 16,384 bytes of the prompt (step 0 to
    3), 0 where the prompt is shorter. `output_tokens` 0 means that the client set no limit: such a line may run
    longest, so it counts as the longest.

    Some 60 bytes a line are needed at once, whatever repeats in the file.
    """
    shortness = np.invert(output_tokens.astype(np.uint32))
    shortness[output_tokens == 0] = 0
    keys = [model]
    for step in range(LADDER_STEPS):
        ranks = _group_ranks(ladder_step(step), shortness)
        if ranks is None:
            break  # a longer prefix cannot repeat where a shorter one does not
        keys.append(ranks)
    keys.append(shortness)
    order: Array = np.lexsort(keys[::-1]).astype(np.uint32)  # stable: what is equal stays in file order
    return order


def _group_ranks(hashes: Array, shortness: Array) -> Array | None:
    """For each line the rank of its prefix group: longest expected output first, then by hash.

    All lines whose prefix nobody shares form one group. None when no prefix is shared.
    """
    if len(hashes) == 0:
        return None
    by_hash = np.argsort(hashes)
    hashes = hashes[by_hash]
    starts = np.flatnonzero(np.concatenate(([True], hashes[1:] != hashes[:-1])))
    sizes = np.diff(starts, append=len(hashes))
    shared = (sizes > 1) & (hashes[starts] != 0)
    del hashes
    groups = int(np.count_nonzero(shared))
    if groups == 0:
        return None
    least = np.minimum.reduceat(shortness[by_hash], starts)
    longest = np.append(least[shared], least[~shared].min(initial=np.iinfo(np.uint32).max))
    rank = np.empty(groups + 1, dtype=np.uint32)
    rank[np.argsort(longest, kind="stable")] = np.arange(groups + 1, dtype=np.uint32)
    group = np.where(shared, np.cumsum(shared) - 1, groups)
    ranks: Array = np.empty(len(by_hash), dtype=np.uint32)
    ranks[by_hash] = np.repeat(rank[group], sizes)
    return ranks


def shard_lines(lines: int, lines_max: int) -> int:
    """The most lines of a shard in a file of so many. Every shard costs a lease, a seal and a few looks at the whole:
    those of a large file are larger, up to LARGER_MAX times."""
    return min(LARGER_MAX * lines_max, max(lines_max, -(-lines // SHARDS_BEFORE_LARGER)))


def cut_shards(*, model: Array, line_bytes: Array, lines_max: int, bytes_max: int) -> list[tuple[int, int, int]]:
    """(start, stop, model) of each shard; `model` and `line_bytes` are given in execution order.

    A shard never spans two models and holds at most `lines_max` lines and `bytes_max` input bytes, but always a line.
    """
    if len(model) == 0:
        return []
    ends = np.cumsum(line_bytes, dtype=np.int64)
    borders = np.flatnonzero(model[1:] != model[:-1]) + 1
    shards = []
    for start, stop in zip([0, *borders.tolist()], [*borders.tolist(), len(model)], strict=True):
        at = start
        while at < stop:
            before = int(ends[at - 1]) if at else 0
            by_bytes = int(np.searchsorted(ends, before + bytes_max, side="right"))
            end = min(stop, at + lines_max, max(at + 1, by_bytes))
            shards.append((at, end, int(model[at])))
            at = end
    return shards
