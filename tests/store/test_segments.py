from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store import markers, segment_parts
from store.records import Damaged, LineResult, TokenUsage
from store.segment_parts import HEADER, LINE_DTYPE
from store.segments import Scan, SegmentWriter, scan


def result(line_no: int, line: bytes = b"{}", *, succeeded: bool = True, tokens: int = 1) -> LineResult:
    return LineResult(line_no, succeeded, line, TokenUsage(tokens, 0, 2 * tokens))


def write(path: Path, *parts: list[LineResult]) -> list[int]:
    """The segment's valid bytes after each part."""
    writer = SegmentWriter.create(path)
    ends = [writer.append(part) for part in parts]
    writer.close()
    return ends


def lines_in(path: Path, found: Scan) -> list[tuple[int, bytes]]:
    data = path.read_bytes()
    return [
        (int(line_no), data[int(offset) : int(offset) + int(length)])
        for line_no, offset, length in zip(found.line_nos, found.offsets, found.lengths, strict=True)
    ]


def test_a_segment_gives_back_what_was_appended(tmp_path: Path) -> None:
    path = tmp_path / "work" / "batch" / "0-1.segment"
    ends = write(path, [result(7, b'{"a":1}'), result(2, b"{}", succeeded=False, tokens=10)], [result(3, b"[]")])
    found = scan(path)
    assert found.valid_bytes == ends[-1] == path.stat().st_size
    assert lines_in(path, found) == [(7, b'{"a":1}'), (2, b"{}"), (3, b"[]")]
    assert found.succeeded.tolist() == [True, False, True]
    assert (found.parts, found.completed, found.failed) == (2, 2, 1)
    assert found.usage_total == TokenUsage(12, 0, 24)


def test_a_segment_says_which_results_are_the_answers_of_others(tmp_path: Path) -> None:
    write(tmp_path / "s", [result(0), replace(result(1), reused=True)], [replace(result(2), reused=True)])
    found = scan(tmp_path / "s")
    assert (found.is_reused.tolist(), found.reused, found.completed) == ([False, True, True], 2, 3)


def test_each_line_is_followed_by_its_newline(tmp_path: Path) -> None:
    write(tmp_path / "s", [result(0, b"one"), result(1, b"two")])
    assert (tmp_path / "s").read_bytes().endswith(b"one\ntwo\n")


def test_a_generation_has_one_writer(tmp_path: Path) -> None:
    write(tmp_path / "s", [result(0)])
    with pytest.raises(FileExistsError):
        SegmentWriter.create(tmp_path / "s")


def test_a_segment_that_was_never_created_holds_nothing(tmp_path: Path) -> None:
    assert len(scan(tmp_path / "none").line_nos) == 0
    assert scan(tmp_path / "none", 0).valid_bytes == 0
    with pytest.raises(Damaged, match="is missing"):
        scan(tmp_path / "none", 100)


def test_bytes_beyond_the_valid_ones_never_count(tmp_path: Path) -> None:
    ends = write(tmp_path / "s", [result(0)], [result(1)], [result(2)])
    assert scan(tmp_path / "s", ends[1]).line_nos.tolist() == [0, 1]


def test_a_torn_tail_never_counts(tmp_path: Path) -> None:
    ends = write(tmp_path / "s", [result(0, b"first")], [result(1, b"second"), result(2, b"third")])
    whole = (tmp_path / "s").read_bytes()
    for size in range(len(whole)):
        (tmp_path / "s").write_bytes(whole[:size])
        found = scan(tmp_path / "s")
        assert found.line_nos.tolist() == ([0] if size >= ends[0] else [])
        assert found.valid_bytes == (ends[0] if size >= ends[0] else 0)
        for counted in (end for end in ends if end > size):
            with pytest.raises(Damaged):
                scan(tmp_path / "s", counted)


def test_a_changed_byte_is_damage_inside_what_counts_and_never_a_wrong_line(tmp_path: Path) -> None:
    path = tmp_path / "s"
    ends = write(path, [result(0, b"first")], [result(1, b"second")], [result(2, b"third")])
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :])
        with pytest.raises(Damaged, match="at byte"):
            scan(path, ends[-1])
        if place < ends[1]:
            with pytest.raises(Damaged, match="behind it is whole"):
                scan(path)
        else:
            assert lines_in(path, scan(path)) == [(0, b"first"), (1, b"second")]


def test_a_part_of_another_segment_does_not_fit_in(tmp_path: Path) -> None:
    ends = write(tmp_path / "a", [result(0)], [result(1)])
    write(tmp_path / "b", [result(5)], [result(6)])
    mixed = (tmp_path / "a").read_bytes()[: ends[0]] + (tmp_path / "b").read_bytes()[ends[0] :]
    (tmp_path / "a").write_bytes(mixed)
    with pytest.raises(Damaged):
        scan(tmp_path / "a", ends[1])


RESULTS = st.lists(
    st.builds(
        result,
        st.integers(0, 50),
        st.binary(max_size=20).map(lambda raw: raw.replace(b"\n", b" ")),
        succeeded=st.booleans(),
        tokens=st.integers(0, 2**31),
    ),
    min_size=1,
    max_size=5,
)


@given(parts=st.lists(RESULTS, max_size=4), cut=st.integers(0, 10**6), noise=st.binary(max_size=200))
@settings(deadline=None)
def test_noise_after_a_cut_never_becomes_a_line(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[LineResult]], cut: int, noise: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "noisy.segment"
    path.unlink(missing_ok=True)
    ends = write(path, *parts)
    whole = path.read_bytes()
    kept = cut % (len(whole) + 1)
    path.write_bytes(whole[:kept] + noise)
    found = scan(path)
    whole_parts = sum(end <= kept for end in ends)
    if (whole[:kept] + noise)[: len(whole)] != whole[: kept + len(noise)]:
        assert found.parts == whole_parts
    expected = [(entry.line_no, entry.line) for part in parts[: found.parts] for entry in part]
    assert lines_in(path, found) == expected


def test_a_token_count_that_no_engine_can_mean_is_cut_to_what_fits(tmp_path: Path) -> None:
    write(tmp_path / "s", [LineResult(0, True, b"{}", TokenUsage(-5, 2**40, 7))])
    assert scan(tmp_path / "s").usage_total == TokenUsage(0, 2**32 - 1, 7)


def test_a_newline_inside_a_line_is_refused(tmp_path: Path) -> None:
    writer = SegmentWriter.create(tmp_path / "s")
    with pytest.raises(ValueError, match="newline"):
        writer.append([result(0, b"a\nb")])
    writer.close()


def test_an_append_passes_its_markers_around_the_sync(tmp_path: Path) -> None:
    reached: list[tuple[str, int]] = []
    markers.install(lambda name: reached.append((name, (tmp_path / "s").stat().st_size)))
    try:
        (end,) = write(tmp_path / "s", [result(0)])
    finally:
        markers.install(None)
    assert reached == [("append.written", end), ("append.synced", end)]


FULL_DISK = """
import resource, sys
from pathlib import Path
from store.records import DiskFull, LineResult, TokenUsage
from store.segments import SegmentWriter, scan

def result(line_no, line): return LineResult(line_no, True, line, TokenUsage())

path = Path(sys.argv[1])
writer = SegmentWriter.create(path)
first = writer.append([result(0, b"first")])
resource.setrlimit(resource.RLIMIT_FSIZE, (first + 300, resource.RLIM_INFINITY))
try:
    writer.append([result(1, b"x" * 1000)])
except DiskFull as error:
    assert str(path) not in str(error) and str(path) in error.for_log
else:
    raise AssertionError("the disk was not full")
assert path.stat().st_size > first and writer.valid_bytes == first
assert scan(path).line_nos.tolist() == [0]
assert writer.append([result(2, b"small")]) > first
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
writer.append([result(1, b"x" * 1000)])
assert scan(path).line_nos.tolist() == [0, 2, 1]
"""


def test_after_a_full_disk_the_same_writer_goes_on(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path / "s")], check=True)


def test_the_layout_of_a_part_is_fixed() -> None:
    assert (HEADER.size, LINE_DTYPE.itemsize) == (64, 32)
    assert segment_parts.VERSION == 1
