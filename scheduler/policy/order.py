"""The order in which a batch's lines run, and where it is cut into shards.

Lines of one model stand together; within a model, lines whose prompts begin alike; within those, the longest expected
output first, so that no straggler is left for the end. Where nothing repeats and nothing differs, file order remains.
Groups that may run equally long stand in the order of their hashes, which is the same in every file: batches that ask
about the same things come to the same prefix at about the same time.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

LADDER_STEPS = 4

Array = NDArray[Any]


class Packing(StrEnum):
    """How the lines of batches are put together: by common prefixes and expected lengths, or as the file has them."""

    PREFIX = "prefix"
    FILE = "file"


def file_order(*, model: Array) -> Array:
    """A permutation of the line numbers (u32): models together, else as the file has them."""
    order: Array = np.argsort(model, kind="stable").astype(np.uint32)
    return order


def execution_order(*, model: Array, ladder: Array, output_tokens: Array) -> Array:
    """A permutation of the line numbers (u32).

    `ladder` has one row per line: hashes of the first 256, 1,024, 4,096 and 16,384 bytes of the prompt, 0 where the
    prompt is shorter. `output_tokens` 0 means that the client set no limit: such a line may run longest, so it counts
    as the longest.
    """
    lines = len(model)
    length = output_tokens.astype(np.int64)
    length[length == 0] = np.iinfo(np.int64).max
    keys = [model.astype(np.int64)]
    for step in range(LADDER_STEPS):
        ranks = _group_ranks(model, ladder[:, step], length)
        if ranks is None:
            break  # a longer prefix cannot repeat where a shorter one does not
        keys.append(ranks)
    keys.extend((-length, np.arange(lines, dtype=np.int64)))
    order: Array = np.lexsort(keys[::-1]).astype(np.uint32)
    return order


def _group_ranks(model: Array, hashes: Array, length: Array) -> Array | None:
    """For each line the rank of its prefix group: longest expected output first, then by hash.

    All lines whose prefix nobody shares form one group. None when no prefix is shared.
    """
    _, group, sizes = np.unique(hashes, return_inverse=True, return_counts=True)
    shared = (sizes[group] > 1) & (hashes != 0)
    if not shared.any():
        return None
    group = np.where(shared, group, len(sizes)).astype(np.int64)
    groups = len(sizes) + 1
    longest = np.zeros(groups, dtype=np.int64)
    np.maximum.at(longest, group, length)
    rank = np.empty(groups, dtype=np.int64)
    rank[np.argsort(-longest, kind="stable")] = np.arange(groups)  # np.unique has sorted them by hash
    ranks: Array = rank[group]
    return ranks


def cut_shards(*, model: Array, line_bytes: Array, lines_max: int, bytes_max: int) -> list[tuple[int, int, int]]:
    """(start, stop, model) of each shard; `model` and `line_bytes` are given in execution order.

    A shard never spans two models and holds at most `lines_max` lines and `bytes_max` input bytes, but always a line.
    """
    if len(model) == 0:
        return []
    ends = np.cumsum(line_bytes, dtype=np.int64)
    borders = np.flatnonzero(np.diff(model.astype(np.int64))) + 1
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
