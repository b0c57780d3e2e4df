from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.blobs import Blobs, StoredBlob
from store.composing import compose
from store.line_copies import OPEN_FILES_MAX, WINDOW_BYTES, Copier, windows_of
from store.pacing import Pace
from store.records import Damaged, LineResult, RequestCounts, TokenUsage
from store.segments import SegmentWriter

Parts = Sequence[Sequence[LineResult]]


def result(line_no: int, line: str, *, succeeded: bool = True, tokens: int = 1) -> LineResult:
    return LineResult(line_no, succeeded, line.encode(), TokenUsage(tokens, 0, tokens))


def expired(line_nos: Sequence[int]) -> list[bytes]:
    return [b"expired %d" % line_no for line_no in line_nos]


def write(folder: Path, *segments: Parts) -> list[tuple[Path, int | None]]:
    written: list[tuple[Path, int | None]] = []
    for number, parts in enumerate(segments):
        path = folder / "work" / f"{number}-1.segment"
        path.unlink(missing_ok=True)
        writer = SegmentWriter.create(path)
        for part in parts:
            writer.append(part)
        writer.close()
        written.append((path, writer.valid_bytes))
    return written


def text_of(blobs: Blobs, blob: StoredBlob | None) -> str | None:
    if blob is None:
        return None
    data = blobs.path(blob.key).read_bytes()
    assert blob.bytes == len(data)
    return data.decode()


def left_behind(folder: Path) -> list[Path]:
    return [path for path in [*folder.glob("tmp/*"), *folder.glob("blobs/*/*")] if path.is_file()]


async def test_lines_come_out_in_input_order_each_in_its_file(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    segments = write(
        tmp_path,
        [[result(4, "four"), result(0, "zero")], [result(2, "two", succeeded=False)]],
        [[result(3, "three"), result(1, "one")]],
    )
    composed = await compose(segments, 6, expired, blobs)
    assert text_of(blobs, composed.output) == "zero\none\nthree\nfour\n"
    assert text_of(blobs, composed.error) == "two\nexpired 5\n"
    assert composed.counts == RequestCounts(total=6, completed=4, failed=2)
    assert composed.usage == TokenUsage(5, 0, 5)
    assert len(left_behind(tmp_path)) == 2


async def test_of_reused_answers_those_of_results_that_count_are_counted(tmp_path: Path) -> None:
    first = [replace(result(0, "a"), reused=True), result(1, "b")]
    second = [replace(result(1, "later"), reused=True), replace(result(2, "c"), reused=True)]
    composed = await compose(write(tmp_path, [first], [second]), 4, expired, Blobs(tmp_path))
    assert composed.counts == RequestCounts(total=4, completed=3, failed=1, reused=2)


async def test_the_result_of_the_lowest_generation_counts_and_only_its_tokens(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    first = [result(0, "first", tokens=1), result(0, "again", tokens=50)]
    second = [result(0, "second", succeeded=False, tokens=100), result(1, "only", tokens=7)]
    composed = await compose(write(tmp_path, [first], [second]), 2, expired, blobs)
    assert text_of(blobs, composed.output) == "first\nonly\n"
    assert composed.error is None
    assert composed.usage == TokenUsage(8, 0, 8)


async def test_a_file_without_lines_is_no_file(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    nothing = await compose([], 2, expired, blobs)
    assert nothing.output is None
    assert text_of(blobs, nothing.error) == "expired 0\nexpired 1\n"
    empty = await compose([(tmp_path / "none", 0), (tmp_path / "never", None)], 0, expired, blobs)
    assert (empty.output, empty.error, empty.counts) == (None, None, RequestCounts())


async def test_composing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    segments = write(tmp_path, [[result(number, f"{number}", succeeded=number % 3 > 0) for number in range(50)]])
    one, two = [await compose(segments, 60, expired, blobs) for _ in range(2)]
    assert text_of(blobs, one.output) == text_of(blobs, two.output)
    assert text_of(blobs, one.error) == text_of(blobs, two.error)


async def test_more_segments_than_open_files_and_lines_larger_than_the_window(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    count = OPEN_FILES_MAX + 20
    large = "x" * (WINDOW_BYTES + 10)
    parts = [[[result(count - 1 - number, f"line {count - 1 - number}")]] for number in range(count)]
    parts[3] = [[result(count - 4, large)]]
    composed = await compose(write(tmp_path, *parts), count, expired, blobs)
    expected = [large if number == count - 4 else f"line {number}" for number in range(count)]
    assert text_of(blobs, composed.output) == "\n".join(expected) + "\n"


@given(
    results=st.lists(
        st.lists(
            st.lists(st.tuples(st.integers(0, 11), st.booleans(), st.text("ab", max_size=9)), min_size=1, max_size=4),
            max_size=3,
        ),
        max_size=4,
    ),
    total=st.integers(12, 14),
)
@settings(deadline=None, max_examples=60)
def test_composing_equals_the_naive_way(
    tmp_path_factory: pytest.TempPathFactory, results: list[list[list[tuple[int, bool, str]]]], total: int
) -> None:
    folder = tmp_path_factory.getbasetemp()
    blobs = Blobs(folder)
    shards = [[[result(no, line, succeeded=ok) for no, ok, line in part] for part in parts] for parts in results]
    naive: dict[int, LineResult] = {}
    for parts in shards:
        for part in parts:
            for entry in part:
                naive.setdefault(entry.line_no, entry)
    output = [naive[no].line.decode() for no in range(total) if no in naive and naive[no].succeeded]
    error = [
        naive[no].line.decode() if no in naive else f"expired {no}"
        for no in range(total)
        if no not in naive or not naive[no].succeeded
    ]
    composed = asyncio.run(compose(write(folder, *shards), total, expired, blobs))
    assert text_of(blobs, composed.output) == ("".join(f"{line}\n" for line in output) or None)
    assert text_of(blobs, composed.error) == ("".join(f"{line}\n" for line in error) or None)
    assert composed.counts == RequestCounts(total, len(output), len(error))
    assert composed.usage.input_tokens == len(naive)


async def test_damage_leaves_no_file_behind(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    segments = write(tmp_path, [[result(0, "zero")]], [[result(1, "one")]])
    data = bytearray(segments[1][0].read_bytes())
    data[-2] ^= 1
    segments[1][0].write_bytes(data)
    with pytest.raises(Damaged, match=r"1-1\.segment"):
        await compose(segments, 2, expired, blobs)
    assert left_behind(tmp_path) == []


async def test_a_line_that_the_batch_does_not_have_is_damage(tmp_path: Path) -> None:
    with pytest.raises(Damaged, match="has line 5; the batch has 2 lines"):
        await compose(write(tmp_path, [[result(5, "five")]]), 2, expired, Blobs(tmp_path))


async def test_too_few_error_lines_are_refused_and_leave_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 lines have no result"):
        await compose(write(tmp_path, [[result(0, "zero")]]), 3, lambda _: [b"one"], Blobs(tmp_path))
    assert left_behind(tmp_path) == []


async def test_cancelling_stops_the_copy_and_leaves_no_file(tmp_path: Path) -> None:
    entered, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def missing(line_nos: Sequence[int]) -> list[bytes]:
        entered.set()
        go_on.wait()
        loop.call_soon_threadsafe(ended.set)
        return expired(line_nos)

    lines, pace = 40_000, Pace()  # more than one window
    composing = asyncio.create_task(compose([], lines, missing, Blobs(tmp_path), pace=pace))
    await asyncio.to_thread(entered.wait)
    composing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await composing
    go_on.set()
    await pace.close()
    assert left_behind(tmp_path) == []


FULL_DISK = """
import asyncio, resource, sys
from pathlib import Path
from store.blobs import Blobs
from store.composing import compose
from store.records import DiskFull

resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
try:
    asyncio.run(compose([], 500, lambda nos: [b"line"] * len(nos), Blobs(Path(sys.argv[1]))))
except DiskFull as error:
    print(error)
"""


def test_a_full_disk_is_said_and_leaves_no_file(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], check=True, stdout=subprocess.PIPE, text=True
    )
    assert "no room for blob" in done.stdout
    assert left_behind(tmp_path) == []


def test_neighbours_are_read_in_one_piece(tmp_path: Path) -> None:
    """A million lines in file order must not mean a million reads."""
    ((path, _),) = write(tmp_path, [[result(number, f"{number:04}") for number in range(500)]])
    data = path.read_bytes()
    at = data.index(b"0000\n")
    reads: list[tuple[int, int]] = []

    class Counting(Copier):
        def _read(self, segment: int, offset: int, into: memoryview) -> None:
            reads.append((offset, len(into)))
            super()._read(segment, offset, into)

    nothing = np.zeros(0, np.int64)
    with Counting([path]) as copier:
        offsets = np.arange(500, dtype=np.uint64) * 5 + at
        found = copier.gather(np.zeros(500, np.uint32), offsets, np.full(500, 4, np.uint32), nothing, [])
        assert bytes(found) == data[at:]
    assert reads == [(at, 2500)]


def test_windows_hold_every_chosen_line_once_and_few_bytes() -> None:
    lengths = np.full(100, WINDOW_BYTES // 3, np.uint32)
    lengths[50] = 2 * WINDOW_BYTES
    chosen = np.ones(100, np.bool_)
    chosen[10] = False
    windows = [window.tolist() for window in windows_of(chosen, lengths)]
    assert [line for window in windows for line in window] == [line for line in range(100) if line != 10]
    assert all(sum(lengths[window]) + len(window) <= WINDOW_BYTES or len(window) == 1 for window in windows)
