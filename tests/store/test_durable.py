from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.durable import write_pieces


@given(pieces=st.lists(st.binary(max_size=5), max_size=8), times=st.sampled_from([1, 400]), offset=st.integers(0, 9))
def test_pieces_are_written_one_behind_the_other(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], times: int, offset: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "pieces"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        write_pieces(fd, pieces * times, offset)
    finally:
        os.close(fd)
    whole = b"".join(pieces) * times
    assert path.read_bytes() == (bytes(offset) + whole if whole else b"")
