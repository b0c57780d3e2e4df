from __future__ import annotations

import pytest

from store.records import (
    BatchStatus,
    LineError,
    NewShard,
    RequestCounts,
    SegmentRef,
    ShardProgress,
    ShardState,
    TokenUsage,
)
from tests.support.metadata import Metadata, cut, done

S = BatchStatus


async def lease(
    metadata: Metadata, batch_id: str, shard_no: int = 0, *, holder: str = "one", generation: int = 0, **at
):
    values = {"valid_bytes": 0, "now": metadata.clock, "lease_seconds": 30.0} | at
    return await metadata.work.lease(batch_id, shard_no, holder=holder, expected_generation=generation, **values)


async def test_admitting_starts_the_batch_on_its_shards_at_once(metadata: Metadata) -> None:
    batch = await metadata.batch()
    assert await metadata.work.admit(batch.id, shards=cut(3, 4), total=12, at=1_007)
    admitted = await metadata.batches.get("alice", batch.id)
    assert admitted is not None
    assert (admitted.status, admitted.in_progress_at, admitted.counts.total) == (S.IN_PROGRESS, 1_007, 12)
    shards = await metadata.work.shards(batch.id)
    assert [(shard.shard_no, shard.start, shard.stop, shard.lines) for shard in shards] == [
        (0, 0, 4, 4),
        (1, 4, 8, 4),
        (2, 8, 12, 4),
    ]
    assert {(shard.state, shard.generation, shard.model, shard.revision) for shard in shards} == {
        (ShardState.READY, 0, "small", "r1")
    }


async def test_a_batch_is_admitted_once_and_never_after_it_was_cancelled(metadata: Metadata) -> None:
    batch, cancelled = await metadata.batch(1), await metadata.batch(2)
    assert await metadata.work.admit(batch.id, shards=cut(1, 4), total=4, at=1_007)
    assert not await metadata.work.admit(batch.id, shards=cut(2, 2), total=4, at=1_008)
    assert len(await metadata.work.shards(batch.id)) == 1
    await metadata.batches.move(cancelled.id, expected={S.VALIDATING}, to=S.CANCELLING, at=1_006)
    assert not await metadata.work.admit(cancelled.id, shards=cut(1, 4), total=4, at=1_007)
    assert await metadata.work.shards(cancelled.id) == []


@pytest.mark.parametrize(
    "shards",
    [
        [NewShard(0, 0, 5, "small", "r1"), NewShard(1, 6, 10, "small", "r1")],
        [NewShard(0, 0, 5, "small", "r1"), NewShard(1, 4, 10, "small", "r1")],
        [NewShard(0, 0, 9, "small", "r1")],
        [NewShard(1, 0, 10, "small", "r1")],
        [NewShard(0, 0, 10, "small", "r1"), NewShard(1, 10, 10, "small", "r1")],
    ],
)
async def test_shards_that_leave_a_gap_are_refused(metadata: Metadata, shards: list[NewShard]) -> None:
    batch = await metadata.batch()
    with pytest.raises(ValueError, match=batch.id):
        await metadata.work.admit(batch.id, shards=shards, total=10, at=1_007)
    assert await metadata.batches.get("alice", batch.id) == batch


async def test_a_lease_is_taken_once_until_it_expires(metadata: Metadata) -> None:
    batch = await metadata.running()
    first = await lease(metadata, batch.id)
    assert first is not None
    assert (first.generation, first.expires_at, first.earlier) == (1, 1_030.0, ())
    assert (first.shard.state, first.shard.holder) == (ShardState.LEASED, "one")
    assert await lease(metadata, batch.id, holder="two") is None
    assert await lease(metadata, batch.id, holder="two", generation=1) is None
    metadata.clock = 1_029.9
    assert await lease(metadata, batch.id, holder="two", generation=1) is None
    metadata.clock = 1_030.0
    second = await lease(metadata, batch.id, holder="two", generation=1, valid_bytes=77)
    assert second is not None
    assert second.generation == 2
    assert second.earlier == (SegmentRef(batch.id, 0, 1, 77),)


async def test_nothing_is_leased_of_a_batch_that_is_not_in_progress(metadata: Metadata) -> None:
    batch = await metadata.running()
    await metadata.batches.move(batch.id, expected={S.IN_PROGRESS}, to=S.CANCELLING, at=1_100)
    assert await lease(metadata, batch.id) is None
    assert await lease(metadata, "batch-never") is None


async def test_a_released_shard_keeps_its_generation_and_its_segment(metadata: Metadata) -> None:
    batch = await metadata.running()
    first = await lease(metadata, batch.id)
    assert await metadata.work.release(first)
    assert not await metadata.work.release(first)
    shard = (await metadata.work.shards(batch.id))[0]
    assert (shard.state, shard.generation, shard.holder) == (ShardState.READY, 1, None)
    assert await metadata.work.segments(batch.id) == [SegmentRef(batch.id, 0, 1, None)]
    assert await lease(metadata, batch.id) is None
    second = await lease(metadata, batch.id, generation=1, valid_bytes=40)
    assert second is not None
    assert second.earlier == (SegmentRef(batch.id, 0, 1, 40),)


async def test_one_renewal_keeps_all_leases_of_a_holder_and_no_expired_one(metadata: Metadata) -> None:
    one, two = await metadata.running(1, shards=3), await metadata.running(2)
    await lease(metadata, one.id, 0, lease_seconds=5.0)
    await lease(metadata, one.id, 1)
    await lease(metadata, two.id, 0)
    await lease(metadata, two.id, 1, holder="two")
    metadata.clock += 10
    held = await metadata.work.renew("one", now=metadata.clock, expires_at=metadata.clock + 30)
    assert held == {(one.id, 1, 1), (two.id, 0, 1)}
    assert [shard.lease_expires_at for shard in await metadata.work.shards(one.id)] == [1_005.0, 1_040.0, None]
    assert [shard.lease_expires_at for shard in await metadata.work.shards(two.id)] == [1_040.0, 1_030.0]
    assert await metadata.work.renew("nobody", now=metadata.clock, expires_at=metadata.clock + 30) == frozenset()


async def test_a_stale_holder_can_neither_report_nor_release_nor_seal(metadata: Metadata) -> None:
    batch = await metadata.running()
    stale = await lease(metadata, batch.id, holder="one")
    metadata.clock += 31
    fresh = await lease(metadata, batch.id, holder="one", generation=1, valid_bytes=3)  # the same name, a new life
    await metadata.work.report([done(batch.id, 0, stale.generation, completed=9)])
    assert not await metadata.work.release(stale)
    assert not await metadata.work.seal(stale, done(batch.id, 0, stale.generation))
    assert not await metadata.work.seal(stale, done(batch.id, 0, fresh.generation - 1))
    assert (await metadata.batches.get("alice", batch.id)).counts == RequestCounts(20, 0, 0)
    assert await metadata.work.seal(fresh, done(batch.id, 0, fresh.generation))
    assert (await metadata.batches.get("alice", batch.id)).counts == RequestCounts(20, 10, 0)


async def test_reports_replace_a_shards_counters_and_sum_up_on_the_batch(metadata: Metadata) -> None:
    batch = await metadata.running()
    for shard_no in (0, 1):
        await lease(metadata, batch.id, shard_no)
    await metadata.work.report([done(batch.id, 0, 1, completed=4, failed=1), done(batch.id, 1, 1, completed=2)])
    await metadata.work.report([done(batch.id, 0, 1, completed=6, failed=2), done(batch.id, 0, 9, completed=1)])
    found = await metadata.batches.get("alice", batch.id)
    assert found.counts == RequestCounts(20, 8, 2)
    assert found.usage == TokenUsage(14, 6, 10)
    assert [(shard.completed, shard.failed) for shard in await metadata.work.shards(batch.id)] == [(6, 2), (2, 0)]
    await metadata.work.report([])


async def test_a_successor_that_found_less_whole_corrects_the_counters(metadata: Metadata) -> None:
    batch = await metadata.running()
    await lease(metadata, batch.id)
    await metadata.work.report([done(batch.id, 0, 1, completed=9)])
    metadata.clock += 31
    await lease(metadata, batch.id, generation=1, valid_bytes=10)
    await metadata.work.report([ShardProgress(batch.id, 0, 2, 5, 0, TokenUsage(3, 1, 2))])
    found = await metadata.batches.get("alice", batch.id)
    assert found.counts == RequestCounts(20, 5, 0)
    assert found.usage == TokenUsage(3, 1, 2)


async def test_a_shard_is_sealed_only_when_every_line_has_a_result(metadata: Metadata) -> None:
    batch = await metadata.running()
    held = await lease(metadata, batch.id)
    with pytest.raises(ValueError, match="10 lines, but results for 9"):
        await metadata.work.seal(held, done(batch.id, 0, 1, completed=9))
    assert await metadata.work.remaining(batch.id) == 2
    assert await metadata.work.seal(held, done(batch.id, 0, 1, completed=8, failed=2))
    assert not await metadata.work.seal(held, done(batch.id, 0, 1))
    assert await metadata.work.remaining(batch.id) == 1
    assert [shard.shard_no for shard in await metadata.work.open_shards(limit_per_batch=5)] == [1]
    assert await lease(metadata, batch.id, generation=1) is None


async def test_expired_leases_are_reclaimed_and_unexpired_ones_are_counted(metadata: Metadata) -> None:
    batch = await metadata.running(shards=3)
    await lease(metadata, batch.id, 0, lease_seconds=5.0)
    await lease(metadata, batch.id, 1)
    assert await metadata.work.leased(batch.id) == 2
    metadata.clock += 5
    assert await metadata.work.leased(batch.id) == 1
    assert await metadata.work.reclaim(now=metadata.clock) == 1
    assert await metadata.work.reclaim(now=metadata.clock) == 0
    states = [shard.state for shard in await metadata.work.shards(batch.id)]
    assert states == [ShardState.READY, ShardState.LEASED, ShardState.READY]


async def test_open_shards_are_the_first_of_each_running_batch_oldest_batch_first(metadata: Metadata) -> None:
    await metadata.running(2, shards=3)
    await metadata.batch(5)
    await metadata.running(1, shards=1, tenant="bob")
    ended = await metadata.running(3)
    await metadata.batches.move(ended.id, expected={S.IN_PROGRESS}, to=S.FINALIZING, at=1_100)
    held = await lease(metadata, "batch-alice-2", 0)
    await lease(metadata, "batch-alice-2", 1)
    await metadata.work.seal(held, done("batch-alice-2", 0, 1))
    found = await metadata.work.open_shards(limit_per_batch=2)
    assert [(shard.batch_id, shard.shard_no) for shard in found] == [
        ("batch-alice-2", 1),
        ("batch-alice-2", 2),
        ("batch-bob-1", 0),
    ]
    assert [shard.shard_no for shard in await metadata.work.open_shards(limit_per_batch=1)] == [1, 0]


async def test_the_segments_that_count_are_in_order_of_shard_and_generation(metadata: Metadata) -> None:
    batch = await metadata.running(shards=3)
    for generation in (0, 1, 2):
        assert await lease(metadata, batch.id, 1, generation=generation, valid_bytes=10 * generation)
        metadata.clock += 31
    sealed = await lease(metadata, batch.id, 0)
    await metadata.work.seal(sealed, done(batch.id, 0, 1))
    assert await metadata.work.segments(batch.id) == [
        SegmentRef(batch.id, 0, 1, None),
        SegmentRef(batch.id, 1, 1, 10),
        SegmentRef(batch.id, 1, 2, 20),
        SegmentRef(batch.id, 1, 3, None),
    ]


async def finish(metadata: Metadata, batch_id: str, *, to: BatchStatus = S.COMPLETED, number: int = 1, **more):
    output = metadata.output(number)
    values = {"expected": {S.FINALIZING}, "to": to, "at": 1_200, "output": output, "error": None}
    return await metadata.work.finish(
        batch_id, **(values | {"counts": RequestCounts(20, 20, 0), "usage": TokenUsage(100, 20, 50)} | more)
    )


async def test_finishing_stores_files_counts_and_status_once(metadata: Metadata) -> None:
    batch = await metadata.running()
    await metadata.batches.move(batch.id, expected={S.IN_PROGRESS}, to=S.FINALIZING, at=1_100)
    ended = await finish(metadata, batch.id)
    assert ended is not None
    assert (ended.status, ended.completed_at, ended.output_file_id) == (S.COMPLETED, 1_200, "file-output-1")
    assert (ended.counts, ended.usage) == (RequestCounts(20, 20, 0), TokenUsage(100, 20, 50))
    assert ended.error_file_id is None
    assert await finish(metadata, batch.id, number=2) is None
    assert await metadata.files.get("alice", "file-output-1") == metadata.output(1)
    assert await metadata.files.get("alice", "file-output-2") is None
    assert await metadata.batches.get("alice", batch.id) == ended
    assert await metadata.work.shards(batch.id) == []


async def test_a_cancel_that_came_first_wins_over_finishing(metadata: Metadata) -> None:
    batch = await metadata.running()
    await metadata.batches.move(batch.id, expected={S.IN_PROGRESS}, to=S.FINALIZING, at=1_100)
    await metadata.batches.move(batch.id, expected={S.FINALIZING}, to=S.CANCELLING, at=1_101)
    assert await finish(metadata, batch.id) is None
    ended = await finish(metadata, batch.id, expected={S.CANCELLING}, to=S.CANCELLED)
    assert ended is not None
    assert ended.output_file_id == "file-output-1"


async def test_finishing_as_failed_delivers_what_is_whole_and_says_what_is_not(metadata: Metadata) -> None:
    batch = await metadata.running()
    await metadata.batches.move(batch.id, expected={S.IN_PROGRESS}, to=S.FINALIZING, at=1_100)
    errors = [LineError("damaged", "segment 1-1 fails its checksum at byte 4096")]
    ended = await finish(metadata, batch.id, to=S.FAILED, errors=errors, errors_total=1)
    assert ended is not None
    assert (ended.errors, ended.errors_total, ended.output_file_id) == (tuple(errors), 1, "file-output-1")


async def test_finishing_with_another_tenants_file_stores_nothing(metadata: Metadata) -> None:
    batch = await metadata.running(tenant="bob")
    await metadata.batches.move(batch.id, expected={S.IN_PROGRESS}, to=S.FINALIZING, at=1_100)
    with pytest.raises(ValueError, match="another tenant"):
        await finish(metadata, batch.id)
    assert (await metadata.batches.get("bob", batch.id)).status is S.FINALIZING
    assert len(await metadata.work.shards(batch.id)) == 2


async def test_finishing_needs_an_end(metadata: Metadata) -> None:
    with pytest.raises(ValueError, match="does not end a batch"):
        await finish(metadata, "any", to=S.FINALIZING)
    with pytest.raises(ValueError, match="never moves"):
        await finish(metadata, "any", expected={S.IN_PROGRESS})
