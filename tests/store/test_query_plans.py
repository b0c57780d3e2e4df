"""What a statement costs must not grow with the table: SQLite's own plan says which index it uses."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import event

from store.events import Events
from store.records import BatchStatus, RequestCounts, TokenUsage
from tests.support.metadata import Metadata, cut, done

S = BatchStatus


class Statements:
    """Every statement that the repositories send while it listens, with SQLite's plan for it."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self.sent: list[tuple[str, tuple[object, ...]]] = []

    @contextmanager
    def listening(self) -> Iterator[None]:
        def record(_connection, _cursor, statement, parameters, _context, many) -> None:
            if not statement.startswith("BEGIN"):
                self.sent.append((statement, parameters[0] if many else parameters))

        engines = [self._metadata.database.reader.sync_engine, self._metadata.database.writer.sync_engine]
        for engine in engines:
            event.listen(engine, "before_cursor_execute", record)
        yield
        for engine in engines:
            event.remove(engine, "before_cursor_execute", record)

    def plans(self) -> list[str]:
        connection = sqlite3.connect(self._metadata.path)
        plans = [
            " | ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters))
            for statement, parameters in self.sent
        ]
        connection.close()
        return plans


@pytest.fixture
async def many(metadata: Metadata) -> Metadata:
    """Rows of two tenants; most batches have ended, as they have on any server after a week."""
    for number in range(12):
        tenant = "alice" if number % 2 else "bob"
        await metadata.running(number, shards=20, tenant=tenant)
        if number > 3:
            await metadata.batches.fail(f"batch-{tenant}-{number}", errors=(), errors_total=0, at=1_002)
    return metadata


async def plans_of(metadata: Metadata, call) -> list[str]:
    statements = Statements(metadata)
    with statements.listening():
        await call
    assert statements.sent
    return statements.plans()


async def test_nothing_that_is_called_often_scans_a_table(many: Metadata) -> None:
    files, batches, work, id_ = many.files, many.batches, many.work, "batch-alice-1"
    held = await work.lease(
        id_, 0, holder="one", expected_generation=0, valid_bytes=0, now=many.clock, lease_seconds=30
    )
    calls = [
        files.get("alice", "file-alice-10001"),
        files.list("alice", after=None, limit=5),
        files.list("alice", after="file-alice-10005", limit=5, ascending=True, purpose="batch"),
        files.expired(5_000, 10),
        files.without_row(["a", "b"]),
        files.delete("alice", "file-never"),
        batches.get("alice", id_),
        batches.list("alice", after=None, limit=5),
        batches.list("alice", after="batch-alice-9", limit=5),
        batches.pause(id_, reason="no engine", at=1_100),
        batches.miss_deadline(id_, at=2_000),
        work.lease(id_, 1, holder="one", expected_generation=0, valid_bytes=0, now=many.clock, lease_seconds=30),
        work.renew("one", now=many.clock, expires_at=many.clock + 60),
        work.report([done(id_, 0, 1, completed=5)]),
        work.seal(held, done(id_, 0, 1)),
        work.release(held),
        work.reclaim(now=many.clock),
        work.shards(id_),
        work.remaining(id_),
        work.leased(id_),
        work.segments(id_),
        batches.move(id_, expected={S.IN_PROGRESS}, to=S.FINALIZING, at=1_100),
        work.finish(
            id_,
            expected={S.FINALIZING},
            to=S.COMPLETED,
            at=1_200,
            output=many.output(1),
            error=None,
            counts=RequestCounts(400, 400, 0),
            usage=TokenUsage(),
        ),
    ]
    for call in calls:
        name = call.__qualname__
        for plan in await plans_of(many, call):
            assert "SCAN" not in plan, f"{name}: {plan}"


@pytest.mark.parametrize("limit_per_batch", [1, 8])
async def test_open_shards_walk_the_open_batches_and_a_few_shards_of_each(many: Metadata, limit_per_batch: int) -> None:
    (plan,) = await plans_of(many, many.work.open_shards(limit_per_batch=limit_per_batch))
    assert "SEARCH batches USING INDEX batches_open (status=?)" in plan
    assert "SEARCH shards USING INDEX sqlite_autoindex_shards_1 (batch_id=? AND shard_no=?)" in plan
    assert "SEARCH others USING INDEX shards_open (batch_id=?)" in plan
    assert "TEMP B-TREE" not in plan


async def test_lists_come_out_of_their_index_already_sorted(many: Metadata) -> None:
    for call, index in (
        (many.files.list("alice", after=None, limit=5), "files_by_tenant (tenant=?)"),
        (many.files.list("alice", after=None, limit=5, purpose="batch"), "files_by_purpose (tenant=? AND purpose=?)"),
        (many.batches.list("alice", after=None, limit=5), "batches_by_tenant (tenant=?)"),
    ):
        (plan,) = await plans_of(many, call)
        assert index in plan
        assert "TEMP B-TREE" not in plan


async def test_renewing_and_reclaiming_read_only_leases(many: Metadata) -> None:
    (renew,) = await plans_of(many, many.work.renew("one", now=1.0, expires_at=2.0))
    assert "INDEX shards_leased (holder=? AND lease_expires_at>?)" in renew
    (reclaim,) = await plans_of(many, many.work.reclaim(now=1.0))
    assert "INDEX shards_leases_by_expiry (lease_expires_at<?)" in reclaim


async def test_active_batches_are_read_from_the_index_of_open_ones(many: Metadata) -> None:
    (plan,) = await plans_of(many, many.batches.active())
    assert "SEARCH batches USING INDEX batches_open (status=?)" in plan


async def test_a_batch_of_many_shards_is_admitted_in_one_statement_per_table(metadata: Metadata) -> None:
    batch = await metadata.batch()
    statements = Statements(metadata)
    with statements.listening():
        await metadata.work.admit(batch.id, shards=cut(5_000, 10), total=50_000, at=1_001)
    assert len(statements.sent) == 2
    assert len(await metadata.work.open_shards(limit_per_batch=4)) == 4


async def test_deliveries_are_found_by_index_however_many_events_are_kept(many: Metadata) -> None:
    async def look() -> None:
        outbox = Events(many.database)
        await outbox.unplanned(10, after=3)
        await outbox.due("hook", now=2_000.0, limit=8)
        await outbox.pending()

    unplanned, due, pending = await plans_of(many, look())
    assert "SEARCH events USING INTEGER PRIMARY KEY" in unplanned
    assert "USING INDEX deliveries_due" in due
    assert "USING INDEX deliveries_due" in pending
