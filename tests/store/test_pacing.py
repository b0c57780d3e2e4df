from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.blobs import Blobs
from store.composing import PACED_WINDOW_BYTES, compose
from store.disk import Disk
from store.ended import EndedResults
from store.index_pool import IndexPool
from store.line_copies import windows_of
from store.pacing import BURST_BYTES, WAIT_SECONDS_MAX, Bucket, Pace
from store.result_ids import result_ids
from store.settings import MIB, StoreSettings
from store.uploads import Uploads

RATES = st.floats(0.01, 1000).map(lambda mib: mib * MIB)
TAKES = st.lists(st.tuples(st.integers(0, 4 * MIB), st.floats(0, 10)), min_size=1, max_size=50)
CRAWL_BYTES_PER_S = 1.0
"""What is bigger than the burst waits longer at this rate than any test."""


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@settings(deadline=None)
@given(rate=RATES, takes=TAKES)
def test_no_more_goes_than_the_rate_and_one_burst(rate: float, takes: list[tuple[int, float]]) -> None:
    bucket, now, used = Bucket(rate, BURST_BYTES, 0.0), 0.0, 0
    for count, pause_seconds in takes:
        bucket, wait_seconds = bucket.take(count, now)
        assert 0 <= wait_seconds <= WAIT_SECONDS_MAX * (1 + 1e-9)
        if wait_seconds >= WAIT_SECONDS_MAX * (1 - 1e-9):
            return  # from here on it is the bound of the wait that counts
        used += count
        now += wait_seconds
        assert used <= BURST_BYTES + rate * now + 1
        now += pause_seconds


@settings(deadline=None)
@given(rate=RATES, count=st.integers(0, 2**40))
def test_no_piece_waits_longer_than_the_bound_however_large_it_is(rate: float, count: int) -> None:
    bucket, first = Bucket(rate, BURST_BYTES, 0.0).take(count, 0.0)
    _, second = bucket.take(count, first)
    assert max(first, second) <= WAIT_SECONDS_MAX * (1 + 1e-9)


@pytest.mark.parametrize(
    ("takes", "waits"),
    [
        ([(0.0, MIB)], [0.0]),  # the burst
        ([(0.0, MIB), (0.0, MIB)], [0.0, 0.5]),
        ([(0.0, MIB), (0.0, MIB), (0.0, MIB)], [0.0, 0.5, 1.0]),  # one after the other
        ([(0.0, MIB), (0.5, MIB)], [0.0, 0.0]),  # earned meanwhile
        ([(0.0, MIB), (9.0, 2 * MIB)], [0.0, 0.5]),  # a long rest earns no more than the burst
        ([(5.0, MIB), (4.0, MIB)], [0.0, 0.5]),  # a clock that goes backwards earns nothing
    ],
)
def test_waits_follow_what_was_taken_before(takes: list[tuple[float, int]], waits: list[float]) -> None:
    bucket, found = Bucket(2 * MIB, BURST_BYTES, 0.0), []
    for now, count in takes:
        bucket, wait_seconds = bucket.take(count, now)
        found.append(wait_seconds)
    assert found == pytest.approx(waits)


async def test_without_a_limit_nobody_waits() -> None:
    pace = Pace(monotonic=Clock())
    for _ in range(100):
        await pace.taken(2**40)
        pace.take(2**40)


async def test_lifting_the_limit_lets_everyone_go_on() -> None:
    pace = Pace(monotonic=Clock())
    pace.limit(CRAWL_BYTES_PER_S)
    pace.take(BURST_BYTES)
    begun = threading.Event()

    def on_a_thread() -> None:
        begun.set()
        pace.take(MIB)

    waiting = [asyncio.create_task(pace.taken(MIB)), asyncio.create_task(pace.run(on_a_thread))]
    await asyncio.to_thread(begun.wait)
    assert not any(task.done() for task in waiting)
    pace.limit(None)
    async with asyncio.timeout(WAIT_SECONDS_MAX / 3):
        await asyncio.gather(*waiting)
    await pace.close()


async def test_a_limit_that_returns_at_once_has_let_go_who_waited_before() -> None:
    pace = Pace(monotonic=Clock())
    pace.limit(CRAWL_BYTES_PER_S)
    waiting = asyncio.create_task(pace.taken(2 * BURST_BYTES))
    await asyncio.sleep(0)
    pace.limit(None)
    pace.limit(CRAWL_BYTES_PER_S)
    async with asyncio.timeout(WAIT_SECONDS_MAX / 3):
        await waiting


async def test_a_closed_pace_holds_nobody_up() -> None:
    pace = Pace(monotonic=Clock())
    pace.limit(CRAWL_BYTES_PER_S)
    waiting = asyncio.create_task(pace.run(pace.take, 2 * BURST_BYTES))
    await asyncio.sleep(0)
    async with asyncio.timeout(WAIT_SECONDS_MAX / 3):
        await pace.close()
    assert waiting.cancelled() or await asyncio.gather(waiting) is not None
    pace.limit(CRAWL_BYTES_PER_S)
    assert not pace.is_limited


def test_while_it_is_limited_less_is_copied_in_one_go() -> None:
    lengths = np.full(10_000, 1000, np.uint32)
    chosen = np.ones(10_000, np.bool_)
    slow = [window.tolist() for window in windows_of(chosen, lengths, lambda: PACED_WINDOW_BYTES)]
    fast = [window.tolist() for window in windows_of(chosen, lengths)]
    for windows in (slow, fast):
        assert [line for window in windows for line in window] == list(range(10_000))
    assert max(map(len, slow)) * 1001 <= PACED_WINDOW_BYTES < max(map(len, fast)) * 1001


async def test_a_slow_batch_gets_the_same_files(tmp_path: Path) -> None:
    def missing(line_nos: Sequence[int]) -> list[bytes]:
        return [b"%05d" % line_no * 20 for line_no in line_nos]

    blobs, slow = Blobs(tmp_path), Pace()
    slow.limit(1000 * MIB)
    bytes_of = []
    for pace in (Pace(), slow):
        composed = await compose([], 20_000, missing, blobs, pace=pace)
        assert composed.error is not None
        bytes_of.append(blobs.path(composed.error.key).read_bytes())
        await pace.close()
    assert bytes_of[0] == bytes_of[1]


async def test_composing_waits_for_its_turn_and_goes_on_when_the_limit_is_lifted(tmp_path: Path) -> None:
    asked = threading.Event()

    def missing(line_nos: Sequence[int]) -> list[bytes]:
        asked.set()
        return [b"x" * 1000] * len(line_nos)

    pace = Pace(monotonic=Clock())
    pace.limit(CRAWL_BYTES_PER_S)
    composing = asyncio.create_task(compose([], 20_000, missing, Blobs(tmp_path), pace=pace))
    await asyncio.to_thread(asked.wait)
    assert not composing.done()
    pace.limit(None)
    async with asyncio.timeout(WAIT_SECONDS_MAX / 3):
        composed = await composing
    assert composed.counts.total == 20_000
    await pace.close()


async def test_reading_results_waits_for_its_turn(tmp_path: Path) -> None:
    path, lines = tmp_path / "output", 3000
    names = (result_ids("batch_1", line_no)[0] for line_no in range(lines))
    path.write_bytes(b"".join(b'{"id":"batch_req_%b"%b}\n' % (name, b" " * 1000) for name in names))
    pace = Pace(monotonic=Clock())
    pace.limit(CRAWL_BYTES_PER_S)
    seen: list[int] = []

    def walk() -> None:
        with EndedResults("batch_1", lines, path, None, pace=pace) as results:
            seen.extend(result.line_no for result in results)

    reading = asyncio.create_task(pace.run(walk))
    while len(seen) * 1000 < BURST_BYTES * 0.9:  # noqa: ASYNC110 (a thread's progress)
        await asyncio.sleep(0.001)
    assert len(seen) < lines
    pace.limit(None)
    async with asyncio.timeout(WAIT_SECONDS_MAX / 3):
        await reading
    assert seen == list(range(lines))
    await pace.close()


async def test_an_upload_is_not_read_on_before_its_turn(tmp_path: Path) -> None:
    """The client waits: nothing of what it sends piles up here."""
    settings, pace = StoreSettings(disk_reserve_bytes=0), Pace(monotonic=Clock())
    pace.limit(CRAWL_BYTES_PER_S)
    uploads = Uploads(tmp_path, Blobs(tmp_path), Disk(tmp_path, settings), settings, b"s" * 32, pace)
    upload = await uploads.begin(indexed=False)
    await upload.write(b"x" * BURST_BYTES)
    more = asyncio.create_task(upload.write(b"y" * MIB))
    await asyncio.sleep(0)
    assert not more.done()
    assert (tmp_path / "tmp" / upload.key).stat().st_size == BURST_BYTES
    pace.limit(None)
    async with asyncio.timeout(WAIT_SECONDS_MAX / 3):
        await more
        stored = await upload.finish()
    assert stored.bytes == BURST_BYTES + MIB
    await uploads.close()


async def test_an_index_worker_slows_down_in_the_middle_of_its_work(tmp_path: Path) -> None:
    """What has come before the online request did is indexed slowly too, from the next piece on."""
    line = b'{"custom_id":"row","method":"POST","url":"/v1/chat/completions","body":{"model":"m","messages":[]}}\n'
    data = b"".join(line.replace(b"row", b"%07d" % number) for number in range(60_000))
    blob = tmp_path / "blob"
    blob.write_bytes(data)
    settings = StoreSettings(intake_bytes_per_s_online=CRAWL_BYTES_PER_S)
    pool = IndexPool(settings, b"s" * 32)
    try:
        pool.yield_to_online(True)  # before there is a worker: one that starts later is told too
        job = await pool.begin(blob, tmp_path / "index")
        ending = asyncio.create_task(job.end(len(data)))
        while (tmp_path / "index").exists() is False or (tmp_path / "index").stat().st_size == 0:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        assert not ending.done()
        pool.yield_to_online(False)
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            summary = await ending
        assert (summary.lines, summary.error_lines) == (60_000, 0)
    finally:
        await pool.close()


async def test_an_index_worker_leaves_the_cores_to_the_engines_session(tmp_path: Path) -> None:
    """`nice` does not reach beyond a session: engine and worker have one each."""
    pool = IndexPool(StoreSettings(), b"s" * 32)
    try:
        await pool.begin(tmp_path / "blob", tmp_path / "index")
        (worker,) = pool.pids()
        process, session = psutil.Process(worker), Path(f"/proc/{worker}/autogroup")
        enabled = Path("/proc/sys/kernel/sched_autogroup_enabled")
        between_sessions = enabled.exists() and enabled.read_text().strip() == "1"
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            while process.nice() == 0 or (between_sessions and "nice 10" not in session.read_text()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    finally:
        await pool.close()


def test_settings_refuse_a_rate_of_nothing() -> None:
    for rate in (0, -1, math.nan):
        with pytest.raises(ValueError, match="intake_bytes_per_s_online must be above 0"):
            StoreSettings(intake_bytes_per_s_online=rate)
