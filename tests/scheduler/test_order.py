"""The execution order: models together, shared prefixes together, long outputs first, else file order."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.policy.order import cut_shards, execution_order, file_order, shard_lines


def order_of(
    model: list[int], ladder: list[tuple[int, int, int, int]] | None = None, output: list[int] | None = None
) -> list[int]:
    lines = len(model)
    steps = np.array(ladder or [(0, 0, 0, 0)] * lines, dtype=np.uint64).reshape(lines, 4)
    return execution_order(
        model=np.array(model, dtype=np.uint16),
        ladder_step=lambda step: steps[:, step],
        output_tokens=np.array(output or [16] * lines, dtype=np.uint32),
    ).tolist()


def test_file_order_remains_where_nothing_repeats() -> None:
    ladder = [(n, n, 0, 0) for n in (9, 4, 7, 1)]
    assert order_of([0, 0, 0, 0], ladder) == [0, 1, 2, 3]


def test_lines_of_one_model_stand_together() -> None:
    assert order_of([1, 0, 1, 0]) == [1, 3, 0, 2]


def test_lines_that_share_a_prefix_are_neighbours_and_prefixes_have_the_same_order_in_every_file() -> None:
    ladder = [(8, 0, 0, 0), (3, 0, 0, 0), (8, 0, 0, 0), (3, 0, 0, 0), (8, 0, 0, 0), (5, 0, 0, 0)]
    assert order_of([0] * 6, ladder) == [1, 3, 0, 2, 4, 5]
    assert order_of([0] * 6, ladder[::-1]) == [2, 4, 1, 3, 5, 0]


def test_without_packing_only_models_are_put_together() -> None:
    assert file_order(model=np.array([1, 0, 1, 0], dtype=np.uint16)).tolist() == [1, 3, 0, 2]


def test_a_longer_shared_prefix_groups_within_a_shorter_one() -> None:
    ladder = [(8, 1, 0, 0), (8, 2, 0, 0), (8, 1, 0, 0), (8, 2, 0, 0)]
    assert order_of([0] * 4, ladder) == [0, 2, 1, 3]


def test_longest_expected_output_first_and_no_limit_counts_as_longest() -> None:
    assert order_of([0] * 4, output=[16, 512, 0, 512]) == [2, 1, 3, 0]


def test_the_group_with_the_longest_output_goes_first() -> None:
    ladder = [(8, 0, 0, 0), (3, 0, 0, 0), (8, 0, 0, 0), (3, 0, 0, 0)]
    assert order_of([0] * 4, ladder, [16, 16, 16, 900]) == [3, 1, 0, 2]


def test_an_empty_file_has_an_empty_order() -> None:
    assert order_of([]) == []


lines_strategy = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.tuples(st.integers(0, 3), st.integers(0, 3)),
        st.sampled_from([0, 1, 16, 512]),
    ),
    max_size=80,
)


@settings(deadline=None)
@given(lines_strategy)
def test_every_order_is_a_permutation_with_models_and_prefixes_unbroken(
    lines: list[tuple[int, tuple[int, int], int]],
) -> None:
    model = [line[0] for line in lines]
    ladder = [(a, a * 10 + b if a and b else 0, 0, 0) for _, (a, b), _ in lines]
    order = order_of(model, ladder, [line[2] for line in lines])
    assert sorted(order) == list(range(len(lines)))
    assert [model[no] for no in order] == sorted(model)
    for depth in (0, 1):
        runs = [key for key in _runs([(model[no], ladder[no][depth]) for no in order]) if key[1]]
        shared = [
            key for key in runs if sum((m, rung[depth]) == key for m, rung in zip(model, ladder, strict=True)) > 1
        ]
        if depth == 0:
            assert len(shared) == len(set(shared))


def _runs(keys: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return [key for at, key in enumerate(keys) if at == 0 or keys[at - 1] != key]


@pytest.mark.parametrize(
    ("model", "line_bytes", "expected"),
    [
        ([], [], []),
        ([0] * 5, [1] * 5, [(0, 2, 0), (2, 4, 0), (4, 5, 0)]),
        ([0, 0, 0, 1], [1] * 4, [(0, 2, 0), (2, 3, 0), (3, 4, 1)]),
        ([0, 0, 0], [60, 60, 10], [(0, 1, 0), (1, 3, 0)]),
        ([0, 0], [900, 10], [(0, 1, 0), (1, 2, 0)]),
    ],
)
def test_shards_are_cut_at_models_lines_and_bytes(
    model: list[int], line_bytes: list[int], expected: list[tuple[int, int, int]]
) -> None:
    cut = cut_shards(
        model=np.array(model, dtype=np.uint16), line_bytes=np.array(line_bytes), lines_max=2, bytes_max=100
    )
    assert cut == expected


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 200)), max_size=60),
    st.integers(1, 9),
    st.integers(1, 300),
)
def test_shards_cover_the_order_without_a_gap(lines: list[tuple[int, int]], lines_max: int, bytes_max: int) -> None:
    lines.sort()
    model, sizes = [line[0] for line in lines], [line[1] for line in lines]
    cut = cut_shards(
        model=np.array(model, dtype=np.uint16),
        line_bytes=np.array(sizes, dtype=np.uint32),
        lines_max=lines_max,
        bytes_max=bytes_max,
    )
    position = 0
    for start, stop, number in cut:
        assert start == position < stop
        assert set(model[start:stop]) == {number}
        assert stop - start <= lines_max
        assert stop - start == 1 or sum(sizes[start:stop]) <= bytes_max
        position = stop
    assert position == len(lines)


@pytest.mark.parametrize(
    ("lines", "most"), [(0, 512), (1_000, 512), (262_144, 512), (262_145, 513), (400_000, 782), (1_000_000, 1_024)]
)
def test_shards_of_a_large_file_are_larger_up_to_a_bound(lines: int, most: int) -> None:
    assert shard_lines(lines, 512) == most


LINES = 100_000
BYTES_PER_LINE_MAX = 64
"""What ordering may need at once: a million lines must not cost a server more than this many megabytes."""

BEGINNINGS = {
    "no two prompts begin alike": np.arange(1, LINES + 1),
    "all prompts begin alike": np.full(LINES, 7),
    "two and two begin alike": np.arange(LINES) // 2 + 1,
    "a thousand groups": np.arange(LINES) % 1_000 + 1,
    "prompts are short": np.zeros(LINES),
}


@pytest.mark.parametrize("beginnings", list(BEGINNINGS))
def test_ordering_needs_few_bytes_a_line_whatever_repeats(beginnings: str) -> None:
    """numpy tells tracemalloc of its arrays; what is given in is not counted."""
    hashes = np.random.default_rng(1).permutation(BEGINNINGS[beginnings].astype(np.uint64))
    model, outputs = np.zeros(LINES, np.uint16), np.full(LINES, 8, np.uint32)
    tracemalloc.start()
    try:
        order = execution_order(model=model, ladder_step=lambda _: hashes.copy(), output_tokens=outputs)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(order) == LINES
    assert peak <= BYTES_PER_LINE_MAX * LINES


def test_cutting_needs_few_bytes_a_line() -> None:
    model, sizes = np.zeros(LINES, np.uint16), np.full(LINES, 512, np.uint32)
    tracemalloc.start()
    try:
        cut = cut_shards(model=model, line_bytes=sizes, lines_max=512, bytes_max=2**25)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert cut[-1][1] == LINES
    assert peak <= 32 * LINES
