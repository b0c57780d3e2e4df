"""Reading results over the end of a batch: who was in the middle goes on where they were."""

from __future__ import annotations

import asyncio
import itertools
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store.blobs import Blobs
from store.composing import compose
from store.live import LiveShard, Place, read_page
from store.records import Damaged, LineResult, TokenUsage
from store.segments import SegmentWriter, scan
from store.sequence import Taken, read_ended_page, write_sequence

SHARD_LINES = 8
numbers = itertools.count()


def result_of(line_no: int) -> bytes:
    return b'{"id":"batch_req_%d"%b}' % (line_no, b" " * (line_no % 5))


def missing(line_nos: Sequence[int]) -> list[bytes]:
    return [result_of(line_no) for line_no in line_nos]


Generations = list[list[int]]
"""The line numbers of a shard in the order in which they are written, by generation."""


@st.composite
def shards(draw: st.DrawFn) -> list[Generations]:
    """Some lines of each shard have results, in any order, in up to three generations."""
    found = []
    for shard in range(draw(st.integers(1, 4))):
        order = draw(st.permutations(range(shard * SHARD_LINES, (shard + 1) * SHARD_LINES)))
        cuts = sorted(draw(st.lists(st.integers(0, SHARD_LINES), min_size=3, max_size=3)))
        found.append([order[start:stop] for start, stop in itertools.pairwise([0, *cuts])])
    return found


def write(folder: Path, generations: Generations) -> list[tuple[Path, int | None]]:
    segments: list[tuple[Path, int | None]] = []
    for line_nos in generations:
        path = folder / f"{next(numbers)}.segment"
        writer = SegmentWriter.create(path)
        for line_no in line_nos:
            writer.append([LineResult(line_no, line_no % 3 != 0, result_of(line_no), TokenUsage())])
        writer.close()
        segments.append((path, scan(path).valid_bytes))
    return segments


@given(shards(), st.integers(0, 6), st.integers(1, 9), st.integers(1, 200))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_reader_in_the_middle_reads_the_rest_from_the_files_of_the_ended_batch(
    tmp_path: Path, written: list[Generations], pages_before: int, lines_max: int, bytes_max: int
) -> None:
    folder = tmp_path / str(next(numbers))
    folder.mkdir()
    blobs = Blobs(folder)
    segments = [write(folder, generations) for generations in written]
    live = [LiveShard(no, SHARD_LINES, parts) for no, parts in enumerate(segments)]
    seen: list[bytes] = []
    place = Place()
    for _ in range(pages_before):
        lines, place = read_page(live, place, lines_max=lines_max, bytes_max=bytes_max)
        seen += lines
    flat = [part for parts in segments for part in parts]
    shard_nos = [no for no, parts in enumerate(segments) for _ in parts]
    total = SHARD_LINES * len(segments)
    composed = asyncio.run(compose(flat, total, missing, blobs, shard_nos))
    keys = [blob.key for blob in (composed.output, composed.error) if blob is not None]
    output, error = (None if blob is None else blobs.path(blob.key) for blob in (composed.output, composed.error))
    while True:
        lines, place = read_ended_page(
            blobs.index_path(keys[0]), output, error, Place.parse(str(place)), lines_max=lines_max, bytes_max=bytes_max
        )
        if not lines:
            break
        assert len(lines) <= lines_max
        assert sum(map(len, lines[:-1])) < bytes_max
        seen += lines
    assert sorted(seen) == sorted(result_of(line_no) for line_no in range(total))
    asyncio.run(drop(blobs, keys))
    assert not [path for path in (folder / "blobs").rglob("*") if path.is_file()]
    assert not list((folder / "tmp").iterdir())


async def drop(blobs: Blobs, keys: Sequence[str]) -> None:
    for key in keys:
        await blobs.delete(key)


def test_a_sequence_that_does_not_fit_its_files_is_damage(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    composed = asyncio.run(compose(write(tmp_path, [[1, 2]]), 3, missing, blobs, [0]))
    assert composed.output is not None
    path = blobs.index_path(composed.output.key)
    wrong = tmp_path / "other"
    wrong.write_bytes(b"x" * 1000)
    with pytest.raises(Damaged, match="does not have the results"):
        read_ended_page(path, wrong, wrong, Place(), lines_max=9, bytes_max=999)
    path.write_bytes(b"nonsense1234")
    with pytest.raises(Damaged, match="is no sequence"):
        read_ended_page(path, wrong, wrong, Place(), lines_max=9, bytes_max=999)


def test_a_sequence_is_written_in_few_bytes_a_line(tmp_path: Path) -> None:
    """16 bytes a line lie on the disk; what is in memory at once is little more."""
    lines = 200_000
    taken = [Taken(no, np.arange(no * 500, no * 500 + 500, dtype=np.uint32)) for no in range(lines // 500)]
    succeeded, lengths = np.arange(lines) % 7 > 0, np.full(lines, 600, np.uint32)
    tracemalloc.start()
    try:
        write_sequence(tmp_path / "sequence", taken, succeeded, lengths)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (tmp_path / "sequence").stat().st_size > 16 * lines
    assert peak < 24 * lines


def test_a_sequence_is_the_same_however_many_rows_are_made_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = np.random.default_rng(3)
    order = chance.permutation(50).astype(np.uint32)
    taken = [Taken(0, order[:20]), Taken(1, order[20:43])]
    succeeded, lengths = chance.random(50) < 0.6, chance.integers(1, 900, 50).astype(np.uint32)
    write_sequence(tmp_path / "whole", taken, succeeded, lengths)
    monkeypatch.setattr("store.sequence.ROWS_AT_ONCE", 7)
    write_sequence(tmp_path / "pieces", taken, succeeded, lengths)
    assert (tmp_path / "pieces").read_bytes() == (tmp_path / "whole").read_bytes()
