"""Reading results while they are written: each once, whatever happens between two pages."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store.live import LiveShard, Place, read_page
from store.records import LineResult, TokenUsage
from store.segments import SegmentWriter, scan

numbers = itertools.count()


class Shard:
    """A shard that several generations write, each taking over what its predecessor had written."""

    def __init__(self, folder: Path, shard_no: int, lines: int) -> None:
        self.folder, self.shard_no, self.lines = folder, shard_no, lines
        self.written = 0
        self.segments: list[tuple[Path, int | None]] = []
        self.writer: SegmentWriter | None = None

    def take_over(self) -> None:
        if self.writer is not None:
            path, _ = self.segments[-1]
            self.segments[-1] = (path, scan(path).valid_bytes)
            self.writer.close()
        path = self.folder / f"{next(numbers)}.segment"
        self.segments.append((path, None))
        self.writer = SegmentWriter.create(path)

    def append(self, count: int) -> None:
        count = min(count, self.lines - self.written)
        if count <= 0:
            return
        if self.writer is None:
            self.take_over()
        assert self.writer is not None
        names = [f"{self.shard_no}:{self.written + no}" for no in range(count)]
        self.writer.append([LineResult(no, True, name.encode(), TokenUsage()) for no, name in enumerate(names)])
        self.written += count

    def view(self) -> LiveShard:
        return LiveShard(self.shard_no, self.lines, tuple(self.segments))


STEP = st.tuples(st.sampled_from(["append", "append", "take over", "read"]), st.integers(0, 3), st.integers(1, 9))


@given(st.lists(STEP, max_size=60), st.integers(1, 20), st.integers(1, 60))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_reader_that_follows_the_cursor_sees_every_result_once(
    tmp_path: Path, steps: list[tuple[str, int, int]], lines_max: int, bytes_max: int
) -> None:
    shards = [Shard(tmp_path, no, lines=12) for no in range(4)]
    place, seen = Place(), []
    for what, which, count in [*steps, *(("append", no, 12) for no in range(4)), *[("read", 0, 0)] * 60]:
        if what == "append":
            shards[which].append(count)
        elif what == "take over":
            shards[which].take_over()
        else:
            # Through text, as a client carries it.
            lines, place = read_page(
                [shard.view() for shard in shards], Place.parse(str(place)), lines_max=lines_max, bytes_max=bytes_max
            )
            assert len(lines) <= lines_max
            seen += lines
    assert sorted(seen) == sorted(f"{shard}:{no}".encode() for shard in range(4) for no in range(12))
    assert str(place) == "v1.4"


def test_a_page_ends_before_it_is_too_large_but_never_before_its_first_line(tmp_path: Path) -> None:
    shard = Shard(tmp_path, 0, lines=12)
    shard.append(12)
    sizes, place = [], Place()
    for _ in range(12):
        lines, place = read_page([shard.view()], place, lines_max=100, bytes_max=1)
        sizes.append(len(lines))
    assert sizes == [1] * 12


def test_a_shard_that_nobody_has_written_to_holds_nothing(tmp_path: Path) -> None:
    assert read_page([LiveShard(0, 5, [(tmp_path / "none", None)])], Place(), lines_max=9, bytes_max=9) == ([], Place())


@pytest.mark.parametrize("text", ["", "v1", "v1.", "v2.0", "v1.0.", "v1.0.1", "v1.0.1-2_", "v1.9999999999", "v1.0.a-1"])
def test_a_cursor_that_no_page_has_given_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no cursor"):
        Place.parse(text)


def test_a_cursor_of_very_many_shards_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 512 shards"):
        Place.parse("v1.0." + "_".join(f"{no}-1" for no in range(600)))


@given(st.integers(0, 10_000), st.dictionaries(st.integers(0, 9999), st.integers(1, 512), max_size=20))
def test_a_cursor_survives_its_text(below: int, counts: dict[int, int]) -> None:
    assert Place.parse(str(Place(below, counts))) == Place(below, counts)
