"""The recorder: groups, the fence, and what a shard loses when it is lost."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace

import pytest

from scheduler.actors.admission import Admission
from scheduler.actors.disk_room import DiskRoom
from scheduler.actors.held import HeldShard
from scheduler.actors.inputs import Inputs
from scheduler.actors.intake import Intake
from scheduler.actors.leases import Leases
from scheduler.actors.measures import Measures
from scheduler.actors.recorder import Recorder
from scheduler.policy.terms import Terms
from store import LineResult, ShardState, TokenUsage, markers
from store.segments import scan
from tests.scheduler.world import SETTINGS, World, chats

LINES = 8


@dataclass
class Bench:
    """One leased shard of `LINES` lines under a recorder, with a monotonic clock that the test turns."""

    world: World
    clock: list[float]
    leases: Leases
    recorder: Recorder
    shard: HeldShard
    ended: list[HeldShard] = field(default_factory=list)

    def result(self, line_no: int, *, size: int = 10) -> LineResult:
        return LineResult(line_no, True, b"x" * size, TokenUsage(1, 0, 1))

    def segment_lines(self) -> list[int]:
        place = (self.shard.batch_id, self.shard.shard_no, self.shard.lease.generation)
        return scan(self.world.store.segment_path(*place)).line_nos.tolist()

    async def flushed(self) -> None:
        assert self.shard.flusher is not None
        await asyncio.wait([self.shard.flusher])


@pytest.fixture
async def bench(world: World) -> AsyncIterator[Bench]:
    settings = replace(SETTINGS, append_interval_ms=60_000, append_results_max=6, append_bytes_max=1_000)
    batch = await world.batch(chats(LINES))
    inputs = Inputs(world.store)
    terms = Terms()
    measures = Measures(world.registry, settings, inputs, terms)
    admission = Admission(measures, terms, None, going=list)
    disk_room = DiskRoom(world.store, world.registry, settings, going=list)
    intake = Intake(world.store, world.registry, settings, inputs, measures, admission, disk_room, now=time.time)
    await intake.take_in(batch)
    clock = [100.0]
    ended: list[HeldShard] = []
    leases = Leases(world.store, settings, holder="h", now=time.time, monotonic=lambda: clock[0])
    recorder = Recorder(
        world.store, settings, monotonic=lambda: clock[0], on_ended=ended.append, on_blocked=lambda _s, _r: None
    )
    (record,) = await world.store.work.shards(batch.id)
    shard = await leases.acquire(record, batch, await inputs.open(batch), context_tokens_max=None)
    assert shard is not None
    yield Bench(world, clock, leases, recorder, shard, ended)
    await recorder.close_writer(shard)
    await recorder.close()


async def test_results_gather_into_one_group_until_they_are_many(bench: Bench) -> None:
    with passings("append.synced") as groups:
        for line_no in range(6):
            bench.recorder.record(bench.shard, bench.result(line_no, size=1))
        await bench.flushed()
    assert len(groups) == 1
    assert bench.segment_lines() == [0, 1, 2, 3, 4, 5]


async def test_results_gather_into_one_group_until_it_is_large(bench: Bench) -> None:
    with passings("append.synced") as groups:
        for line_no in range(4):
            bench.recorder.record(bench.shard, bench.result(line_no, size=300))
        await bench.flushed()
    assert len(groups) == 1
    assert bench.segment_lines() == [0, 1, 2, 3]
    assert (bench.shard.completed, bench.shard.buffer) == (4, [])


async def test_the_last_result_is_written_at_once_and_seals_the_shard(bench: Bench) -> None:
    for line_no in range(LINES):
        bench.recorder.record(bench.shard, bench.result(line_no))
    await bench.flushed()
    (record,) = await bench.world.store.work.shards(bench.shard.batch_id)
    assert (record.state, record.completed) == (ShardState.SEALED, LINES)
    assert bench.ended == [bench.shard]
    assert not bench.shard.lost


async def test_the_last_results_are_written_at_once_also_when_they_come_during_a_write(bench: Bench) -> None:
    written, go_on = threading.Event(), threading.Event()

    def hold(marker: str) -> None:
        if marker == "append.written" and not written.is_set():
            written.set()
            assert go_on.wait(30)

    markers.install(hold)
    try:
        for line_no in range(6):
            bench.recorder.record(bench.shard, bench.result(line_no))
        assert await asyncio.to_thread(written.wait, 30)
        for line_no in range(6, LINES):
            bench.recorder.record(bench.shard, bench.result(line_no))
        go_on.set()
        async with asyncio.timeout(30):  # the interval is twice as long
            await bench.flushed()
    finally:
        go_on.set()
        markers.install(None)
    assert (bench.shard.completed, bench.ended) == (LINES, [bench.shard])


async def test_nothing_is_appended_when_the_lease_was_not_renewed_for_half_its_time(bench: Bench) -> None:
    bench.recorder.record(bench.shard, bench.result(0))
    bench.clock[0] += SETTINGS.lease_seconds / 2 + 0.1
    bench.shard.flush_now.set()
    await bench.flushed()
    assert bench.segment_lines() == []
    assert (bench.shard.dropped, bench.shard.lost, bench.ended) == (True, True, [bench.shard])


async def test_a_renewal_lifts_the_fence(bench: Bench) -> None:
    bench.clock[0] += SETTINGS.lease_seconds / 2 + 0.1
    assert await bench.leases.renew() == []
    bench.recorder.record(bench.shard, bench.result(0))
    bench.shard.flush_now.set()
    await bench.flushed()
    assert bench.segment_lines() == [0]


async def test_a_shard_taken_over_is_not_renewed_and_not_sealed(bench: Bench) -> None:
    store, shard = bench.world.store, bench.shard
    taken = await store.work.lease(
        shard.batch_id,
        shard.shard_no,
        holder="other",
        expected_generation=1,
        valid_bytes=0,
        now=time.time() + 100,
        lease_seconds=10,
    )
    assert taken is not None
    assert await bench.leases.renew() == [shard]
    for line_no in range(LINES):
        bench.recorder.record(shard, bench.result(line_no))
    await bench.flushed()
    (record,) = await store.work.shards(shard.batch_id)
    assert (record.state, record.holder) == (ShardState.LEASED, "other")
    assert (shard.lost, bench.ended) == (True, [shard])


async def test_a_shard_that_is_let_go_writes_what_it_has(bench: Bench) -> None:
    bench.recorder.record(bench.shard, bench.result(3))
    await bench.recorder.let_go(bench.shard)
    bench.recorder.record(bench.shard, bench.result(4))
    assert bench.segment_lines() == [3]


class passings:  # noqa: N801 (reads as a word in `with`)
    """The passings of one marker while the block runs."""

    def __init__(self, marker: str) -> None:
        self.marker = marker
        self.seen: list[str] = []

    def __enter__(self) -> list[str]:
        hook: Callable[[str], None] = lambda name: self.seen.append(name) if name == self.marker else None  # noqa: E731
        markers.install(hook)
        return self.seen

    def __exit__(self, *_raised: object) -> None:
        markers.install(None)


async def test_a_result_that_becomes_durable_while_progress_is_written_is_in_the_next_report(bench: Bench) -> None:
    for line_no in range(6):
        bench.recorder.record(bench.shard, bench.result(line_no, size=1))
    await bench.flushed()
    first = asyncio.create_task(bench.leases.report())
    await asyncio.sleep(0)  # the report has taken its figures and waits for the store
    bench.shard.completed += 1
    await first
    await bench.leases.report()
    (record,) = await bench.world.store.work.shards(bench.shard.batch_id)
    assert record.completed == 7
