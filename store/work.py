"""The work of a batch between admission and its end: shards, leases, segments, counters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from store import leasing
from store.batches import check_edges, move_batch
from store.files import insert_file
from store.records import (
    BatchRecord,
    BatchStatus,
    FileRecord,
    Lease,
    LineError,
    NewShard,
    RequestCounts,
    SegmentRef,
    ShardProgress,
    ShardRecord,
    TokenUsage,
)
from store.rows import error_values, segment_ref, shard_record, shard_values, usage_values
from store.schema import BATCH_OPEN, SHARD_LEASED, SHARD_OPEN, batches, segments, shards
from store.sqlite import Database


class Work:
    """`now` is the wall clock: leases are compared between processes of one machine."""

    def __init__(self, database: Database, now: Callable[[], float]) -> None:
        self._database = database
        self._now = now

    async def admit(
        self,
        batch_id: str,
        *,
        shards: Sequence[NewShard],
        total: int,
        at: int,
        invalid_lines: int = 0,
        warnings: str | None = None,
    ) -> bool:
        """Start a `validating` batch on its shards; False when it has moved on meanwhile.

        The shards cut the execution order without a gap, numbered from 0. `invalid_lines` of the `total` are in no
        shard: they have their results already and count as failed. `warnings` (JSON) is what the client should know.
        """
        _check_cut(batch_id, shards, total - invalid_lines)
        return await self._database.write(
            lambda connection: _admit(connection, batch_id, shards, total, invalid_lines, at, warnings)
        )

    async def open_shards(self, *, limit_per_batch: int) -> list[ShardRecord]:
        """The first unsealed shards of each `in_progress` batch, oldest batch first."""
        query = open_shards_query(limit_per_batch)
        return await self._database.read(lambda connection: _shard_records(connection, query))

    async def shards(self, batch_id: str) -> list[ShardRecord]:
        query = sa.select(shards).where(shards.c.batch_id == batch_id).order_by(shards.c.shard_no)
        return await self._database.read(lambda connection: _shard_records(connection, query))

    async def lease(
        self,
        batch_id: str,
        shard_no: int,
        *,
        holder: str,
        expected_generation: int,
        valid_bytes: int,
        now: float,
        lease_seconds: float,
    ) -> Lease | None:
        """Take over a shard that is ready, or leased and expired; None when the race for it is lost.

        `valid_bytes` is what the caller has just read and checksummed of the segment of `expected_generation`: more
        than that never counts, whatever its former holder still writes. It means nothing for generation 0.
        """
        return await self._database.write(
            lambda connection: leasing.take(
                connection,
                batch_id,
                shard_no,
                holder=holder,
                expected_generation=expected_generation,
                valid_bytes=valid_bytes,
                now=now,
                lease_seconds=lease_seconds,
            )
        )

    async def renew(self, holder: str, *, now: float, expires_at: float) -> frozenset[tuple[str, int, int]]:
        """Renew every lease of `holder` at once; the (batch_id, shard_no, generation) it still holds."""
        return await self._database.write(
            lambda connection: leasing.renew(connection, holder, now=now, expires_at=expires_at)
        )

    async def report(self, progress: Sequence[ShardProgress]) -> None:
        """Show progress, in one transaction. Generations that no longer hold their shard are ignored."""

        def report(connection: Connection) -> None:
            for one in progress:
                leasing.report(connection, one)

        if progress:
            await self._database.write(report)

    async def release(self, lease: Lease) -> bool:
        """Back to ready, the generation stays; False when the lease was no longer ours."""
        return await self._database.write(lambda connection: leasing.release(connection, lease))

    async def seal(self, lease: Lease, progress: ShardProgress) -> bool:
        """Close a shard whose every line has a result; False when the lease was no longer ours."""
        return await self._database.write(lambda connection: leasing.seal(connection, lease, progress))

    async def reclaim(self, *, now: float) -> int:
        """Expired leases to ready; how many."""
        return await self._database.write(lambda connection: leasing.reclaim(connection, now=now))

    async def remaining(self, batch_id: str) -> int:
        """Shards that are not sealed."""
        return await self._count(shards.c.batch_id == batch_id, sa.literal_column(SHARD_OPEN))

    async def leased(self, batch_id: str) -> int:
        """Shards with a lease that has not expired: somebody may still append."""
        unexpired = shards.c.lease_expires_at > self._now()
        return await self._count(shards.c.batch_id == batch_id, sa.literal_column(SHARD_LEASED), unexpired)

    async def segments(self, batch_id: str) -> list[SegmentRef]:
        """All that count, by shard and generation. Of a shard that was ever leased, the newest generation's counts as
        far as it checksums right; its file may be missing when nothing was appended."""

        def segment_refs(connection: Connection) -> list[SegmentRef]:
            former = sa.select(segments).where(segments.c.batch_id == batch_id)
            newest = sa.select(shards.c.batch_id, shards.c.shard_no, shards.c.generation).where(
                shards.c.batch_id == batch_id, shards.c.generation > 0
            )
            found = [segment_ref(row) for row in connection.execute(former).mappings()]
            found += [SegmentRef(*row, valid_bytes=None) for row in connection.execute(newest)]
            return sorted(found, key=lambda ref: (ref.shard_no, ref.generation))

        return await self._database.read(segment_refs)

    async def finish(
        self,
        batch_id: str,
        *,
        expected: Collection[BatchStatus],
        to: BatchStatus,
        at: int,
        output: FileRecord | None,
        error: FileRecord | None,
        counts: RequestCounts,
        usage: TokenUsage,
        errors: Sequence[LineError] = (),
        errors_total: int = 0,
        quality: str | None = None,
    ) -> BatchRecord | None:
        """End a batch: file rows, counts, usage and final status in one transaction; its shards and segment rows go.

        None when the status is not one of `expected`, as after a first call that came through: then nothing is stored,
        and the blobs composed for this call are the caller's to delete. `quality` None leaves what the shards came to.
        """
        if not to.terminal:
            raise ValueError(f"{to.value} does not end a batch")
        check_edges(expected, to)
        values = {
            "total": counts.total,
            "completed": counts.completed,
            "failed": counts.failed,
            "reused": counts.reused,
            **usage_values(usage),
            **error_values(errors, errors_total),
            "output_file_id": None if output is None else output.id,
            "error_file_id": None if error is None else error.id,
        }
        if quality is not None:
            values["quality"] = quality
        written = [file for file in (output, error) if file is not None]

        def finish(connection: Connection) -> BatchRecord | None:
            ended = move_batch(connection, batch_id, expected=expected, to=to, at=at, values=values)
            if ended is None:
                return None
            for file in written:
                if file.tenant != ended.tenant:
                    raise ValueError(f"file {file.id} of {batch_id} belongs to another tenant")
                insert_file(connection, file)
            return ended

        return await self._database.write(finish)

    async def _count(self, *conditions: sa.ColumnElement[Any]) -> int:
        query = sa.select(sa.func.count()).select_from(shards).where(*conditions)
        return await self._database.read(lambda connection: connection.scalar(query) or 0)


def open_shards_query(limit_per_batch: int) -> sa.Select[Any]:
    """Walks the open batches and takes a few shards of each: what it costs does not grow with the shards left."""
    others = shards.alias("others")
    first = (
        sa.select(others.c.shard_no)
        .where(others.c.batch_id == batches.c.id, sa.literal_column("others." + SHARD_OPEN))
        .order_by(others.c.shard_no)
        .limit(limit_per_batch)
        .correlate(batches)
    )
    return (
        sa.select(shards)
        .select_from(batches.join(shards, shards.c.batch_id == batches.c.id))
        .where(
            sa.literal_column("batches." + BATCH_OPEN),
            batches.c.status == BatchStatus.IN_PROGRESS.value,
            shards.c.shard_no.in_(first),
        )
        .order_by(batches.c.seq, shards.c.shard_no)
    )


def _shard_records(connection: Connection, query: sa.Select[Any]) -> list[ShardRecord]:
    return [shard_record(row) for row in connection.execute(query).mappings()]


def _check_cut(batch_id: str, cut: Sequence[NewShard], total: int) -> None:
    position = 0
    for number, shard in enumerate(cut):
        if shard.shard_no != number or shard.start != position or shard.stop <= shard.start:
            raise ValueError(
                f"shard {shard} of {batch_id} does not follow shard {number - 1}, which ends at {position}"
            )
        position = shard.stop
    if position != total:
        raise ValueError(f"the shards of {batch_id} hold {position} lines of {total}")


def _admit(
    connection: Connection,
    batch_id: str,
    cut: Sequence[NewShard],
    total: int,
    invalid_lines: int,
    at: int,
    warnings: str | None,
) -> bool:
    batch = move_batch(
        connection,
        batch_id,
        expected={BatchStatus.VALIDATING},
        to=BatchStatus.IN_PROGRESS,
        at=at,
        values={
            "total": total,
            "completed": 0,
            "failed": invalid_lines,
            "invalid_lines": invalid_lines,
            "warnings": warnings,
        },
    )
    if batch is None:
        return False
    if cut:
        rows = [shard_values(shard, batch_id=batch_id, tenant=batch.tenant) for shard in cut]
        connection.execute(sa.insert(shards), rows)
    return True
