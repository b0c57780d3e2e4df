from __future__ import annotations

import itertools

import pytest
from sqlalchemy.exc import IntegrityError

from store.records import (
    BATCH_EDGES,
    BatchStatus,
    LineError,
    NotFound,
    OnDeadline,
    RequestCounts,
    ShardState,
    TokenUsage,
)
from tests.support.metadata import Metadata

S = BatchStatus
EVERY = tuple(BatchStatus)


async def test_a_new_batch_is_validating_with_nothing_done(metadata: Metadata) -> None:
    batch = await metadata.batch()
    assert batch.status is S.VALIDATING
    assert batch.counts == RequestCounts()
    assert batch.usage == TokenUsage()
    assert batch.metadata == {"team": "search"}
    assert batch.model == "small"
    assert await metadata.batches.get("alice", batch.id) == batch
    assert await metadata.batches.get("bob", batch.id) is None


async def test_a_batch_needs_an_input_file_of_its_tenant(metadata: Metadata) -> None:
    file = await metadata.file()
    with pytest.raises(NotFound, match="file-never"):
        await metadata.batch_on("file-never")
    with pytest.raises(NotFound, match=file.id):
        await metadata.batch_on(file.id, tenant="bob")
    assert await metadata.batches.active() == []


async def test_batches_are_listed_newest_first_per_tenant_with_exact_has_more(metadata: Metadata) -> None:
    mine = [(await metadata.batch(number)).id for number in range(4)]
    await metadata.batch(tenant="bob")
    first = await metadata.batches.list("alice", after=None, limit=2)
    second = await metadata.batches.list("alice", after=first.data[-1].id, limit=2)
    assert [batch.id for batch in first.data + second.data] == mine[::-1]
    assert (first.has_more, second.has_more) == (True, False)
    assert (await metadata.batches.list("alice", after=mine[0], limit=2)).data == ()
    assert (await metadata.batches.list("alice", after="batch-bob-0", limit=2)).data == ()
    assert (await metadata.batches.list("alice", after="never", limit=2)).data == ()


async def test_active_batches_are_those_of_all_tenants_that_have_not_ended_oldest_first(metadata: Metadata) -> None:
    await metadata.batch(1)
    await metadata.running(2, tenant="bob")
    await metadata.batch(3)
    await metadata.batches.fail("batch-alice-1", errors=(), errors_total=0, at=1_001)
    assert [batch.id for batch in await metadata.batches.active()] == ["batch-bob-2", "batch-alice-3"]


async def test_a_move_stamps_its_time_and_only_from_the_expected_status(metadata: Metadata) -> None:
    batch = await metadata.running()
    assert await metadata.batches.move(batch.id, expected={S.VALIDATING}, to=S.CANCELLING, at=1_100) is None
    moved = await metadata.batches.move(batch.id, expected={S.VALIDATING, S.IN_PROGRESS}, to=S.CANCELLING, at=1_100)
    assert moved is not None
    assert (moved.status, moved.cancelling_at, moved.in_progress_at) == (S.CANCELLING, 1_100, 1_001)
    assert await metadata.batches.get("alice", batch.id) == moved


@pytest.mark.parametrize(
    ("start", "to"), [pair for pair in itertools.product(EVERY, EVERY) if pair[1] not in BATCH_EDGES.get(pair[0], ())]
)
async def test_no_other_edge_can_be_asked_for(metadata: Metadata, start: BatchStatus, to: BatchStatus) -> None:
    with pytest.raises(ValueError, match=f"never moves from {start.value} to {to.value}"):
        await metadata.batches.move("any", expected={start}, to=to, at=1_100)


async def test_an_end_gives_the_input_free_and_drops_shards_and_segments(metadata: Metadata) -> None:
    batch = await metadata.running()
    kept = await metadata.running(1)
    for number in (batch, kept):
        for generation in (0, 1):
            assert await metadata.work.lease(
                number.id, 0, holder="h", expected_generation=generation, valid_bytes=5, now=generation, lease_seconds=1
            )
    await metadata.batches.move(batch.id, expected={S.IN_PROGRESS}, to=S.CANCELLING, at=1_100)
    assert len(await metadata.work.shards(batch.id)) == 2
    await metadata.batches.move(batch.id, expected={S.CANCELLING}, to=S.CANCELLED, at=1_101)
    assert await metadata.work.shards(batch.id) == []
    assert await metadata.work.segments(batch.id) == []
    assert len(await metadata.work.segments(kept.id)) == 2
    assert await metadata.files.delete("alice", batch.input_file_id) is not None


async def test_a_failed_batch_shows_its_errors_and_how_many_there_were(metadata: Metadata) -> None:
    batch = await metadata.batch()
    errors = [LineError("invalid_json_line", "line 3 is no JSON", None, 3), LineError("empty_file", "ä", "input")]
    failed = await metadata.batches.fail(batch.id, errors=errors, errors_total=47_000, at=1_005)
    assert failed is not None
    assert (failed.status, failed.failed_at, failed.errors_total) == (S.FAILED, 1_005, 47_000)
    assert failed.errors == tuple(errors)
    assert await metadata.batches.fail(batch.id, errors=(), errors_total=0, at=1_006) is None
    assert await metadata.batches.get("alice", batch.id) == failed


async def test_a_pause_keeps_its_first_time_and_its_latest_reason(metadata: Metadata) -> None:
    batch = await metadata.running()
    await metadata.batches.pause(batch.id, reason="no engine", at=1_010)
    await metadata.batches.pause(batch.id, reason="disk full", at=1_020)
    paused = await metadata.batches.get("alice", batch.id)
    assert paused is not None
    assert (paused.status, paused.paused_at, paused.pause_reason) == (S.IN_PROGRESS, 1_010, "disk full")
    await metadata.batches.resume(batch.id)
    assert await metadata.batches.get("alice", batch.id) == batch


async def test_only_what_is_in_progress_pauses_and_leaving_it_ends_the_pause(metadata: Metadata) -> None:
    waiting, batch = await metadata.batch(1), await metadata.running(2)
    await metadata.batches.pause(waiting.id, reason="no engine", at=1_010)
    assert await metadata.batches.get("alice", waiting.id) == waiting
    await metadata.batches.pause(batch.id, reason="no engine", at=1_010)
    moved = await metadata.batches.move(batch.id, expected={S.IN_PROGRESS}, to=S.FINALIZING, at=1_020)
    assert moved is not None
    assert (moved.paused_at, moved.pause_reason) == (None, None)


async def test_a_missed_deadline_keeps_its_first_time_and_never_expires_a_batch_that_continues(
    metadata: Metadata,
) -> None:
    batch = await metadata.batch(on_deadline=OnDeadline.CONTINUE)
    await metadata.batches.miss_deadline(batch.id, at=2_000)
    await metadata.batches.miss_deadline(batch.id, at=2_100)
    missed = await metadata.batches.get("alice", batch.id)
    assert missed is not None
    assert (missed.deadline_missed_at, missed.expires_at) == (2_000, batch.expires_at)
    await metadata.work.admit(batch.id, shards=[], total=0, at=2_001)
    await metadata.batches.move(batch.id, expected={S.IN_PROGRESS}, to=S.FINALIZING, at=2_002)
    with pytest.raises(IntegrityError, match="batches_expire_only_if_told"):
        await metadata.batches.move(batch.id, expected={S.FINALIZING}, to=S.EXPIRED, at=2_003)
    await metadata.batches.fail(batch.id, errors=(), errors_total=0, at=2_004)
    await metadata.batches.miss_deadline(batch.id, at=3_000)
    assert (await metadata.batches.get("alice", batch.id)).deadline_missed_at == 2_000


@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        ("UPDATE batches SET status = 'sleeping'", "batches_status"),
        ("UPDATE batches SET status = 'completed'", "batches_"),
        ("UPDATE batches SET completed_at = 5", "batches_completed_at"),
        ("UPDATE batches SET status = 'completed', reading_file_id = NULL", "batches_completed_at"),
        ("UPDATE batches SET status = 'finalizing'", "batches_finalizing_at"),
        ("UPDATE batches SET reading_file_id = NULL", "batches_read_until_they_end"),
        ("UPDATE batches SET pause_reason = 'none'", "batches_pause_reason"),
        ("UPDATE batches SET completed = 19, failed = 2", "batches_counts"),
        ("UPDATE batches SET output_tokens = -1", "batches_usage"),
        ("UPDATE batches SET tenant = ''", "batches_tenant"),
        ("UPDATE batches SET on_deadline = 'maybe'", "batches_on_deadline"),
        ("DELETE FROM files", "FOREIGN KEY"),
        ("DELETE FROM batches", "FOREIGN KEY"),
        ("UPDATE shards SET state = 'lost', generation = 1", "shards_state"),
        ("UPDATE shards SET state = 'leased', generation = 1", "shards_"),
        ("UPDATE shards SET holder = 'h'", "shards_holder"),
        ("UPDATE shards SET completed = 11", "shards_counts"),
        ("UPDATE shards SET state = 'sealed', generation = 1", "shards_sealed_when_done"),
        ("UPDATE shards SET state = 'sealed', completed = 10", "shards_generation"),
        ("INSERT INTO segments VALUES ('batch-alice-0', 9, 1, 'alice', 0)", "FOREIGN KEY"),
        ("INSERT INTO segments VALUES ('batch-alice-0', 0, 0, 'alice', 0)", "segments_generation"),
        ("INSERT INTO segments VALUES ('batch-alice-0', 0, 1, '', 0)", "segments_tenant"),
    ],
)
async def test_the_schema_refuses_by_itself(metadata: Metadata, broken: str, rule: str) -> None:
    batch = await metadata.running()
    with pytest.raises(IntegrityError, match=rule):
        await metadata.database.write(lambda connection: connection.exec_driver_sql(broken))
    assert await metadata.batches.get("alice", batch.id) == batch
    assert [shard.state for shard in await metadata.work.shards(batch.id)] == [ShardState.READY] * 2
