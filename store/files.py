"""The rows of API files. The bytes they name are `store.blobs`' business."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from store.records import FileInUse, FileRecord, Page
from store.rows import file_record, file_values
from store.schema import batches, deleted_files, files, upload_parts
from store.sqlite import Database

DELETED_CURSOR_SECONDS = 7 * 24 * 3600
"""How long a deleted file is still known as a place in a list."""

KEYS_ASKED_MAX = 1000
"""Blob keys in one query; SQLite binds a bounded number of values."""


class Files:
    def __init__(self, database: Database, now: Callable[[], float]) -> None:
        self._database = database
        self._now = now

    async def insert(self, record: FileRecord) -> None:
        await self._database.write(lambda connection: insert_file(connection, record))

    async def get(self, tenant: str, file_id: str) -> FileRecord | None:
        return await self._database.read(lambda connection: find_file(connection, tenant, file_id))

    async def list(
        self,
        tenant: str,
        *,
        after: str | None,
        limit: int,
        ascending: bool = False,
        purpose: str | None = None,
    ) -> Page[FileRecord]:
        """A page in order of insertion, newest first unless `ascending`.

        `after` may name a file that has been deleted since: deleting each file of a listing is a common loop. A name
        that never was gives an empty page.
        """
        if limit < 1:
            raise ValueError(f"a page has at least 1 file, not {limit}")

        def page(connection: Connection) -> Page[FileRecord]:
            query = sa.select(files).where(files.c.tenant == tenant)
            if purpose is not None:
                query = query.where(files.c.purpose == purpose)
            if after is not None:
                seq = _place(connection, tenant, after)
                if seq is None:
                    return Page((), has_more=False)
                query = query.where(files.c.seq > seq if ascending else files.c.seq < seq)
            query = query.order_by(files.c.seq.asc() if ascending else files.c.seq.desc()).limit(limit + 1)
            rows = connection.execute(query).mappings().all()
            return Page(tuple(map(file_record, rows[:limit])), has_more=len(rows) > limit)

        return await self._database.read(page)

    async def delete(self, tenant: str, file_id: str) -> FileRecord | None:
        """Take the row away and return it; its bytes are then the caller's to delete.

        Raises FileInUse while a batch that has not ended reads the file. A crash between the two leaves bytes without a
        row, which `without_row` finds.
        """
        deleted_at = int(self._now())

        def delete(connection: Connection) -> FileRecord | None:
            reader = connection.scalar(sa.select(batches.c.id).where(batches.c.reading_file_id == file_id).limit(1))
            gone = sa.delete(files).where(files.c.id == file_id, files.c.tenant == tenant)
            if reader is not None:
                if find_file(connection, tenant, file_id) is None:
                    return None
                raise FileInUse(f"file {file_id} is the input of {reader}, which has not ended: cancel it first")
            row = connection.execute(gone.returning(*files.c)).mappings().one_or_none()
            if row is None:
                return None
            old = deleted_files.c.deleted_at < deleted_at - DELETED_CURSOR_SECONDS
            connection.execute(sa.delete(deleted_files).where(old))
            place = {"id": file_id, "tenant": tenant, "seq": row["seq"], "deleted_at": deleted_at}
            connection.execute(sa.insert(deleted_files).values(place))
            return file_record(row)

        return await self._database.write(delete)

    async def expired(self, now: int, limit: int) -> builtins.list[FileRecord]:
        """Files past their time that no running batch reads, longest overdue first; delete each with `delete`."""
        read_now = sa.exists().where(batches.c.reading_file_id == files.c.id)
        query = (
            sa.select(files)
            .where(files.c.expires_at.is_not(None), files.c.expires_at <= now, ~read_now)
            .order_by(files.c.expires_at)
            .limit(limit)
        )

        def overdue(connection: Connection) -> builtins.list[FileRecord]:
            return [file_record(row) for row in connection.execute(query).mappings()]

        return await self._database.read(overdue)

    async def without_row(self, blob_keys: Sequence[str]) -> builtins.list[str]:
        """Those of `blob_keys` that no file and no part of an upload names, in the order given. A blob is durable a
        moment before its row is: ask only about blobs older than any upload may take."""

        def known(connection: Connection) -> set[str]:
            found: set[str] = set()
            for start in range(0, len(blob_keys), KEYS_ASKED_MAX):
                asked = blob_keys[start : start + KEYS_ASKED_MAX]
                for table in (files, upload_parts):
                    found.update(connection.scalars(sa.select(table.c.blob).where(table.c.blob.in_(asked))))
            return found

        named = await self._database.read(known)
        return [key for key in blob_keys if key not in named]


def insert_file(connection: Connection, record: FileRecord) -> None:
    connection.execute(sa.insert(files).values(file_values(record)))


def find_file(connection: Connection, tenant: str, file_id: str) -> FileRecord | None:
    query = sa.select(files).where(files.c.id == file_id, files.c.tenant == tenant)
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else file_record(row)


def _place(connection: Connection, tenant: str, file_id: str) -> int | None:
    for table in (files, deleted_files):
        seq: int | None = connection.scalar(
            sa.select(table.c.seq).where(table.c.id == file_id, table.c.tenant == tenant)
        )
        if seq is not None:
            return seq
    return None
