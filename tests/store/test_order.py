from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.order import BLOCK_LINES, read_order, write_order
from store.records import Damaged


def test_an_order_is_read_back_in_any_range_across_its_blocks(tmp_path: Path) -> None:
    order = list(range(2 * BLOCK_LINES + 5))
    random.Random(1).shuffle(order)
    path = tmp_path / "batch" / "order"
    write_order(path, order)
    assert read_order(path) == order
    for start, stop in [(0, 0), (0, 1), (BLOCK_LINES - 1, BLOCK_LINES + 1), (BLOCK_LINES, 2 * BLOCK_LINES), (3, 40000)]:
        stop = min(stop, len(order))  # noqa: PLW2901
        assert read_order(path, start, stop) == order[start:stop]
    assert read_order(path, len(order) - 1) == order[-1:]
    assert [entry.name for entry in path.parent.iterdir()] == ["order"]


@given(count=st.integers(0, 60), data=st.data())
@settings(deadline=None)
def test_any_permutation_survives(tmp_path_factory: pytest.TempPathFactory, count: int, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(count)))
    path = tmp_path_factory.getbasetemp() / "order"
    write_order(path, order)
    assert read_order(path) == order


@pytest.mark.parametrize("order", [[0, 0], [1, 2], [0, 5, 1]])
def test_what_is_no_permutation_is_refused(tmp_path: Path, order: list[int]) -> None:
    with pytest.raises(ValueError, match="not a permutation"):
        write_order(tmp_path / "order", order)


def test_an_order_with_any_byte_lost_or_changed_is_never_used(tmp_path: Path) -> None:
    path = tmp_path / "order"
    write_order(path, [3, 1, 2, 0])
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(Damaged, match="order"):
            read_order(path)
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :])
        with pytest.raises(Damaged, match="order"):
            read_order(path)
    path.unlink()
    with pytest.raises(Damaged, match="is missing"):
        read_order(path)


def test_positions_beyond_the_end_are_refused(tmp_path: Path) -> None:
    write_order(tmp_path / "order", [1, 0])
    with pytest.raises(Damaged, match="has 2 lines"):
        read_order(tmp_path / "order", 1, 3)
