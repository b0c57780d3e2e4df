"""The fence around a shard: who may write which segment, and how much of a former one counts.

Each function is one compare-and-set on (state, holder, generation), to be run in one write transaction. A generation
only rises, has one holder ever, and what its successor recorded as valid of its segment never changes.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from store.quality import merged
from store.records import BatchStatus, Lease, SegmentRef, ShardProgress, ShardState
from store.rows import segment_ref, shard_record, usage_values
from store.schema import SHARD_LEASED, batches, segments, shards

_leased: sa.ColumnElement[bool] = sa.literal_column(SHARD_LEASED)
_ready_again = {"state": ShardState.READY.value, "holder": None, "lease_expires_at": None}


def take(
    connection: Connection,
    batch_id: str,
    shard_no: int,
    *,
    holder: str,
    expected_generation: int,
    valid_bytes: int,
    now: float,
    lease_seconds: float,
) -> Lease | None:
    """Take a free shard over into the next generation, fixing how much of the former generation's segment counts."""
    if valid_bytes < 0 or lease_seconds <= 0 or not holder:
        raise ValueError(f"no lease with holder {holder!r}, valid_bytes {valid_bytes}, lease_seconds {lease_seconds}")
    running = sa.exists().where(batches.c.id == batch_id, batches.c.status == BatchStatus.IN_PROGRESS.value)
    free = (shards.c.state == ShardState.READY.value) | (_leased & (shards.c.lease_expires_at <= now))
    expires_at = now + lease_seconds
    taken = (
        sa.update(shards)
        .where(
            shards.c.batch_id == batch_id,
            shards.c.shard_no == shard_no,
            shards.c.generation == expected_generation,
            free,
            running,
        )
        .values(
            state=ShardState.LEASED.value,
            generation=expected_generation + 1,
            holder=holder,
            lease_expires_at=expires_at,
        )
        .returning(*shards.c)
    )
    row = connection.execute(taken).mappings().one_or_none()
    if row is None:
        return None
    if expected_generation > 0:
        former = {
            "batch_id": batch_id,
            "shard_no": shard_no,
            "generation": expected_generation,
            "tenant": row["tenant"],
            "valid_bytes": valid_bytes,
        }
        connection.execute(sa.insert(segments).values(former))
    return Lease(
        shard=shard_record(row),
        holder=holder,
        generation=expected_generation + 1,
        expires_at=expires_at,
        earlier=_earlier(connection, batch_id, shard_no),
    )


def _earlier(connection: Connection, batch_id: str, shard_no: int) -> tuple[SegmentRef, ...]:
    query = (
        sa.select(segments)
        .where(segments.c.batch_id == batch_id, segments.c.shard_no == shard_no)
        .order_by(segments.c.generation)
    )
    return tuple(segment_ref(row) for row in connection.execute(query).mappings())


def renew(connection: Connection, holder: str, *, now: float, expires_at: float) -> frozenset[tuple[str, int, int]]:
    """Move the expiry of all that `holder` still holds, in one statement. What has expired stays expired: another may
    be reading the segment already."""
    if expires_at <= now:
        raise ValueError(f"a lease renewed at {now} cannot expire at {expires_at}")
    renewed = (
        sa.update(shards)
        .where(_leased, shards.c.holder == holder, shards.c.lease_expires_at > now)
        .values(lease_expires_at=expires_at)
        .returning(shards.c.batch_id, shards.c.shard_no, shards.c.generation)
    )
    return frozenset((batch_id, shard_no, generation) for batch_id, shard_no, generation in connection.execute(renewed))


def release(connection: Connection, lease: Lease) -> bool:
    """Give a shard back before it is done. The generation stays: its segment is fixed only by a successor."""
    return connection.execute(sa.update(shards).where(_held(lease)).values(_ready_again)).rowcount == 1


def seal(connection: Connection, lease: Lease, progress: ShardProgress) -> bool:
    """Close a shard in which every line has a result; the counters of the batch follow."""
    if progress.completed + progress.failed != lease.shard.lines:
        raise ValueError(
            f"shard {lease.shard.shard_no} of {lease.shard.batch_id} has {lease.shard.lines} lines, "
            f"but results for {progress.completed + progress.failed}: it cannot be sealed"
        )
    _count(connection, progress, holder=lease.holder)
    sealed = (
        sa.update(shards)
        .where(_held(lease))
        .values({"state": ShardState.SEALED.value, "holder": None, "lease_expires_at": None})
    )
    if connection.execute(sealed).rowcount != 1:
        return False
    if progress.quality is not None:
        _add_quality(connection, progress.batch_id, progress.shard_no, progress.quality)
    return True


def _add_quality(connection: Connection, batch_id: str, shard_no: int, quality: str) -> None:
    """A shard is sealed once, so its quality is added to its batch's once."""
    mine = sa.and_(shards.c.batch_id == batch_id, shards.c.shard_no == shard_no)
    connection.execute(sa.update(shards).where(mine).values(quality=quality))
    former = connection.scalar(sa.select(batches.c.quality).where(batches.c.id == batch_id))
    connection.execute(sa.update(batches).where(batches.c.id == batch_id).values(quality=merged(former, quality)))


def reclaim(connection: Connection, *, now: float) -> int:
    """Free what its holder did not renew in time; returns how many shards."""
    expired = sa.update(shards).where(_leased, shards.c.lease_expires_at <= now)
    return connection.execute(expired.values(_ready_again)).rowcount


def report(connection: Connection, progress: ShardProgress) -> None:
    """Set a shard's counters and move its batch's by the difference, unless another generation has the shard by now."""
    _count(connection, progress, holder=None)


def _held(lease: Lease) -> sa.ColumnElement[bool]:
    return sa.and_(
        shards.c.batch_id == lease.shard.batch_id,
        shards.c.shard_no == lease.shard.shard_no,
        shards.c.generation == lease.generation,
        shards.c.holder == lease.holder,
        _leased,
    )


def _count(connection: Connection, progress: ShardProgress, *, holder: str | None) -> None:
    mine = [
        shards.c.batch_id == progress.batch_id,
        shards.c.shard_no == progress.shard_no,
        shards.c.generation == progress.generation,
        _leased,
    ]
    if holder is not None:
        mine.append(shards.c.holder == holder)
    before = connection.execute(sa.select(shards).where(*mine)).mappings().one_or_none()
    if before is None:
        return
    counters = {
        "completed": progress.completed,
        "failed": progress.failed,
        "reused": progress.reused,
        **usage_values(progress.usage),
    }
    connection.execute(sa.update(shards).where(*mine).values(counters))
    moved = {name: batches.c[name] + (value - before[name]) for name, value in counters.items()}
    connection.execute(sa.update(batches).where(batches.c.id == progress.batch_id).values(moved))
