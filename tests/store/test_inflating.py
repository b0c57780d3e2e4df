"""Compressed streams come out as they went in, whatever the pieces they arrive in, and never as more than a piece."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.inflating import GZIP, PIECE_BYTES_MAX, ZSTD, CorruptStream, Inflater, compression_of, first_line, plain_name

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COMPRESS: dict[str, Callable[[bytes], bytes]] = {GZIP: gzip.compress, ZSTD: zstd.compress}
SKIPPABLE = b"\x5a\x2a\x4d\x18\x03\x00\x00\x00abc"
BOTH = pytest.mark.parametrize("kind", [GZIP, ZSTD])


def inflated(kind: str, data: bytes, step: int = 65536) -> bytes:
    inflater = Inflater(kind)
    found = []
    for start in range(0, len(data), step):
        inflater.feed(data[start : start + step])
        while piece := inflater.piece():
            assert len(piece) <= PIECE_BYTES_MAX
            found.append(piece)
    inflater.end()
    return b"".join(found)


@BOTH
@settings(max_examples=40)
@given(members=st.lists(st.binary(max_size=400), min_size=1, max_size=5), step=st.integers(1, 300))
def test_members_one_after_the_other_are_one_file_in_whatever_pieces(
    kind: str, members: list[bytes], step: int
) -> None:
    data = b"".join(COMPRESS[kind](member) for member in members)
    assert compression_of(data[:4]) == kind
    assert inflated(kind, data, step) == b"".join(members)


@BOTH
def test_a_few_bytes_become_many_one_piece_at_a_time(kind: str) -> None:
    data = COMPRESS[kind](bytes(20 * PIECE_BYTES_MAX + 7))
    assert len(data) < 50_000
    assert inflated(kind, data) == bytes(20 * PIECE_BYTES_MAX + 7)


@BOTH
@settings(max_examples=40)
@given(content=st.binary(min_size=1, max_size=400), data=st.data())
def test_a_stream_that_is_cut_off_is_corrupt(kind: str, content: bytes, data: st.DataObject) -> None:
    whole = COMPRESS[kind](content)
    cut = whole[: data.draw(st.integers(4, len(whole) - 1))]
    with pytest.raises(CorruptStream, match="cut off after"):
        inflated(kind, cut)


@BOTH
def test_bytes_after_the_end_that_are_no_member_are_corrupt(kind: str) -> None:
    with pytest.raises(CorruptStream, match=f"not a valid {kind} stream"):
        inflated(kind, COMPRESS[kind](b"content") + b"trailing bytes of something else")


def test_a_damaged_checksum_is_corrupt() -> None:
    data = bytearray(gzip.compress(b"content" * 100))
    data[-6] ^= 1
    with pytest.raises(CorruptStream):
        inflated(GZIP, bytes(data))


def test_zeros_after_a_gzip_member_are_padding() -> None:
    assert inflated(GZIP, gzip.compress(b"a") + bytes(1000) + gzip.compress(b"b") + bytes(512)) == b"ab"


def test_frames_of_a_tools_own_are_passed_over() -> None:
    data = SKIPPABLE + zstd.compress(b"a") + SKIPPABLE + zstd.compress(b"b")
    assert compression_of(data[:4]) == ZSTD
    assert inflated(ZSTD, data, 3) == b"ab"


def test_text_and_other_formats_are_not_compressed() -> None:
    for head in (b"", b"{", b'{"cu', b"\x1f\x8b", zlib.compress(b"x"), b"PK\x03\x04", "✓".encode(), b"\xef\xbb\xbf{"):
        assert compression_of(head[:4]) is None


def test_a_name_loses_the_suffix_of_its_compression_only() -> None:
    assert plain_name("in.jsonl.gz", GZIP) == "in.jsonl"
    assert plain_name("IN.JSONL.ZST", ZSTD) == "IN.JSONL"
    assert plain_name("in.jsonl.gz", ZSTD) == "in.jsonl.gz"
    assert plain_name(".gz", GZIP) == ".gz"


def test_a_frame_that_would_need_much_memory_is_refused_and_one_of_128_mib_is_not() -> None:
    for window_log, accepted in ((27, True), (28, False)):
        compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: window_log})
        data = compressor.compress(b"content") + compressor.flush()
        if accepted:
            assert inflated(ZSTD, data) == b"content"
        else:
            with pytest.raises(CorruptStream, match="too much memory"):
                inflated(ZSTD, data)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstd.compress], ids=["plain", "gzip", "zstd"])
def test_the_first_line_is_read_without_the_rest(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    file = tmp_path / "in"
    for content, first in [
        (b"one\ntwo\n" + b"x" * 3 * PIECE_BYTES_MAX, b"one\n"),
        (b"only", b"only"),
        (b"y" * 3 * PIECE_BYTES_MAX + b"\n", b"y" * 100_000),
        (b"", b""),
    ]:
        file.write_bytes(pack(content))
        assert first_line(file, 100_000) == first
