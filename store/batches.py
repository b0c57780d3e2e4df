"""The rows of batches. A status moves by compare-and-set along `BATCH_EDGES`, here and nowhere else."""

from __future__ import annotations

import builtins
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from store.events import insert_event
from store.files import find_file, insert_file
from store.records import (
    BATCH_EDGES,
    TERMINAL_STATUSES,
    BatchRecord,
    BatchStatus,
    FileRecord,
    LineError,
    NewBatch,
    NotFound,
    Page,
)
from store.rows import batch_record, batch_values, error_values
from store.schema import BATCH_OPEN, batches, segments, shards
from store.sqlite import Database

CAN_FAIL = frozenset(status for status, following in BATCH_EDGES.items() if BatchStatus.FAILED in following)


class Batches:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, new: NewBatch, *, repeats_since: int | None = None) -> BatchRecord:
        """Store a batch as `validating`. From here until it ends its input file cannot be deleted.

        Where a batch of the tenant has the same `idempotency_key` already, that one comes back instead (its `id`
        tells), whatever its `request_digest`. So does, with `repeats_since`, the newest one with the same digest that
        was created then or later. Looking and storing are one transaction: of two at once one stores.
        """

        def create(connection: Connection) -> BatchRecord:
            earlier = _earlier(connection, new, repeats_since)
            if earlier is not None:
                return earlier
            file = find_file(connection, new.tenant, new.input_file_id)
            if file is None or (file.expires_at is not None and file.expires_at <= new.created_at):
                raise NotFound(f"No such File object: {new.input_file_id}")
            stored = sa.insert(batches).values(batch_values(new)).returning(*batches.c)
            return batch_record(connection.execute(stored).mappings().one())

        return await self._database.write(create)

    async def get(self, tenant: str, batch_id: str) -> BatchRecord | None:
        query = sa.select(batches).where(batches.c.id == batch_id, batches.c.tenant == tenant)

        def get(connection: Connection) -> BatchRecord | None:
            row = connection.execute(query).mappings().one_or_none()
            return None if row is None else batch_record(row)

        return await self._database.read(get)

    async def list(self, tenant: str, *, after: str | None, limit: int) -> Page[BatchRecord]:
        """A page, newest first. An unknown `after` gives an empty page."""
        if limit < 1:
            raise ValueError(f"a page has at least 1 batch, not {limit}")

        def page(connection: Connection) -> Page[BatchRecord]:
            query = sa.select(batches).where(batches.c.tenant == tenant)
            if after is not None:
                place = sa.select(batches.c.seq).where(batches.c.id == after, batches.c.tenant == tenant)
                seq = connection.scalar(place)
                if seq is None:
                    return Page((), has_more=False)
                query = query.where(batches.c.seq < seq)
            rows = connection.execute(query.order_by(batches.c.seq.desc()).limit(limit + 1)).mappings().all()
            return Page(tuple(map(batch_record, rows[:limit])), has_more=len(rows) > limit)

        return await self._database.read(page)

    async def descendants(self, tenant: str, batch_id: str, *, limit: int) -> builtins.list[BatchRecord]:
        """The retries of a batch, their retries and so on, oldest first; at most `limit`."""
        family = (
            sa.select(batches.c.id)
            .where(batches.c.parent_batch_id == batch_id, batches.c.tenant == tenant)
            .cte("family", recursive=True)
        )
        family = family.union(sa.select(batches.c.id).where(batches.c.parent_batch_id == family.c.id))
        query = sa.select(batches).where(batches.c.id.in_(sa.select(family.c.id))).order_by(batches.c.seq).limit(limit)

        def descendants(connection: Connection) -> builtins.list[BatchRecord]:
            return [batch_record(row) for row in connection.execute(query).mappings()]

        return await self._database.read(descendants)

    async def active(self) -> builtins.list[BatchRecord]:
        """Every batch that has not ended, of all tenants, oldest first."""
        going = batches.c.status.in_([status.value for status in BATCH_EDGES])
        query = sa.select(batches).where(sa.literal_column(BATCH_OPEN), going).order_by(batches.c.seq)

        def active(connection: Connection) -> builtins.list[BatchRecord]:
            return [batch_record(row) for row in connection.execute(query).mappings()]

        return await self._database.read(active)

    async def move(
        self, batch_id: str, *, expected: Collection[BatchStatus], to: BatchStatus, at: int
    ) -> BatchRecord | None:
        """Move to `to` and stamp its time, if the status is one of `expected`; None when it is not.

        ValueError when BATCH_EDGES has no such edge. Leaving `in_progress` ends a pause. An end gives the input file
        free and drops the batch's shards and segment rows.
        """
        return await self._database.write(
            lambda connection: move_batch(connection, batch_id, expected=expected, to=to, at=at)
        )

    async def fail(
        self,
        batch_id: str,
        *,
        errors: Sequence[LineError],
        errors_total: int,
        at: int,
        error_file: FileRecord | None = None,
    ) -> BatchRecord | None:
        """End a batch as `failed`, with the errors to show, how many there were, and a file with all of them.

        None when it has ended already: then nothing is stored, and the file's bytes are the caller's to delete.
        """
        values = error_values(errors, errors_total)
        if error_file is not None:
            values["error_file_id"] = error_file.id

        def fail(connection: Connection) -> BatchRecord | None:
            failed = move_batch(connection, batch_id, expected=CAN_FAIL, to=BatchStatus.FAILED, at=at, values=values)
            if failed is not None and error_file is not None:
                insert_file(connection, error_file)
            return failed

        return await self._database.write(fail)

    async def pause(self, batch_id: str, *, reason: str, at: int) -> None:
        """Say why an `in_progress` batch waits. A second pause changes the reason, not the time. Else nothing."""
        changed = {"paused_at": sa.func.coalesce(batches.c.paused_at, at), "pause_reason": reason}
        await self._change_running(batch_id, changed)

    async def resume(self, batch_id: str) -> None:
        await self._change_running(batch_id, {"paused_at": None, "pause_reason": None})

    async def hold(self, tenant: str, batch_id: str, *, reason: str, at: int) -> BatchRecord | None:
        """Pause on a person's request: only `let_go` ends it. None when the batch is not validating or in progress.

        A second hold changes nothing. A batch that is validating shows its pause once it is in progress.
        """
        shown = batches.c.status == BatchStatus.IN_PROGRESS.value
        return await self._change_held(
            tenant,
            batch_id,
            {
                "held_at": sa.func.coalesce(batches.c.held_at, at),
                "paused_at": sa.case((shown, sa.func.coalesce(batches.c.paused_at, at)), else_=None),
                "pause_reason": sa.case((shown, reason), else_=None),
            },
        )

    async def let_go(self, tenant: str, batch_id: str) -> BatchRecord | None:
        """End a person's hold; what else keeps the batch from running shows again soon. None as for `hold`."""
        return await self._change_held(tenant, batch_id, {"held_at": None, "paused_at": None, "pause_reason": None})

    async def _change_held(self, tenant: str, batch_id: str, values: Mapping[str, Any]) -> BatchRecord | None:
        changed = (
            sa.update(batches)
            .where(
                batches.c.id == batch_id,
                batches.c.tenant == tenant,
                batches.c.status.in_([BatchStatus.VALIDATING.value, BatchStatus.IN_PROGRESS.value]),
            )
            .values(dict(values))
            .returning(*batches.c)
        )

        def change(connection: Connection) -> BatchRecord | None:
            row = connection.execute(changed).mappings().one_or_none()
            return None if row is None else batch_record(row)

        return await self._database.write(change)

    async def show_pace(self, paces: Mapping[str, tuple[float | None, float | None, int | None]]) -> None:
        """Set lines_per_s, tokens_per_s and eta_at of batches in progress, in one transaction."""

        def show(connection: Connection) -> None:
            for batch_id, (lines_per_s, tokens_per_s, eta_at) in paces.items():
                running = (batches.c.id == batch_id) & (batches.c.status == BatchStatus.IN_PROGRESS.value)
                values = {"lines_per_s": lines_per_s, "tokens_per_s": tokens_per_s, "eta_at": eta_at}
                connection.execute(sa.update(batches).where(running).values(values))

        await self._database.write(show)

    async def show_schedules(self, schedules: Mapping[str, str]) -> None:
        """Keep why each batch runs or waits (`store.schedule`), in one transaction; of those that have not ended."""

        def show(connection: Connection) -> None:
            for batch_id, schedule in schedules.items():
                going = (batches.c.id == batch_id) & batches.c.status.in_([status.value for status in BATCH_EDGES])
                connection.execute(sa.update(batches).where(going).values(schedule=schedule))

        await self._database.write(show)

    async def miss_deadline(self, batch_id: str, *, at: int) -> None:
        """Remember when a batch that runs on passed its deadline; the first time counts."""
        changed = (
            sa.update(batches)
            .where(
                batches.c.id == batch_id,
                batches.c.deadline_missed_at.is_(None),
                batches.c.status.not_in([status.value for status in TERMINAL_STATUSES]),
            )
            .values(deadline_missed_at=at)
        )
        await self._execute(changed)

    async def _change_running(self, batch_id: str, values: Mapping[str, Any]) -> None:
        running = (batches.c.id == batch_id) & (batches.c.status == BatchStatus.IN_PROGRESS.value)
        await self._execute(sa.update(batches).where(running).values(dict(values)))

    async def _execute(self, statement: sa.Update) -> None:
        def execute(connection: Connection) -> None:
            connection.execute(statement)

        await self._database.write(execute)


def _earlier(connection: Connection, new: NewBatch, repeats_since: int | None) -> BatchRecord | None:
    """The batch that an earlier try of the same create has made."""
    mine = sa.select(batches).where(batches.c.tenant == new.tenant)
    if new.idempotency_key is not None:
        query = mine.where(batches.c.idempotency_key == new.idempotency_key)
    elif repeats_since is not None and new.request_digest is not None:
        query = mine.where(batches.c.request_digest == new.request_digest, batches.c.created_at >= repeats_since)
    else:
        return None
    row = connection.execute(query.order_by(batches.c.seq.desc()).limit(1)).mappings().one_or_none()
    return None if row is None else batch_record(row)


def check_edges(expected: Collection[BatchStatus], to: BatchStatus) -> None:
    """ValueError unless every move that is asked for is an edge."""
    if not expected:
        raise ValueError(f"a move to {to.value} names no status that it starts from")
    for status in expected:
        if to not in BATCH_EDGES.get(status, ()):
            raise ValueError(f"a batch never moves from {status.value} to {to.value}")


def move_batch(
    connection: Connection,
    batch_id: str,
    *,
    expected: Collection[BatchStatus],
    to: BatchStatus,
    at: int,
    values: Mapping[str, Any] | None = None,
) -> BatchRecord | None:
    """The compare-and-set behind every change of status, inside the caller's transaction."""
    check_edges(expected, to)
    changed: dict[str, Any] = {"status": to.value, f"{to.value}_at": at, **(values or {})}
    if to is not BatchStatus.IN_PROGRESS:
        changed |= {"paused_at": None, "pause_reason": None, "held_at": None}
        changed |= {"lines_per_s": None, "tokens_per_s": None, "eta_at": None}
    if to.terminal:
        changed["reading_file_id"] = None
    moved = (
        sa.update(batches)
        .where(batches.c.id == batch_id, batches.c.status.in_([status.value for status in expected]))
        .values(changed)
        .returning(*batches.c)
    )
    row = connection.execute(moved).mappings().one_or_none()
    if row is None:
        return None
    if to.terminal:
        insert_event(connection, batch_id=batch_id, tenant=row["tenant"], status=to.value, at=at)
        connection.execute(sa.delete(segments).where(segments.c.batch_id == batch_id))
        connection.execute(sa.delete(shards).where(shards.c.batch_id == batch_id))
    return batch_record(row)
