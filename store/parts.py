"""Files that come in parts: the rows of uploads and of their parts. The bytes of a part are a blob.

Every change checks the status in the transaction that makes it, so of a completion, a cancellation and an expiry that
meet exactly one wins. Rows go before bytes: those methods that take parts away return the keys of the blobs, which are
then the caller's to delete.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import sqlalchemy as sa
from sqlalchemy import RowMapping
from sqlalchemy.engine import Connection

from store.files import insert_file
from store.records import FileRecord, NotPending, TooManyParts, UploadStatus
from store.schema import upload_parts, uploads
from store.sqlite import Database

ENDED_KEPT_SECONDS: Final = 7 * 24 * 3600
"""How long an ended upload can still be asked for: a client repeats what it got no answer to."""


@dataclass(frozen=True, slots=True)
class UploadRecord:
    """`bytes` is what its creator declared. `file_expires_after_seconds` counts from the completion."""

    id: str
    tenant: str
    purpose: str
    filename: str
    mime_type: str
    bytes: int
    status: UploadStatus
    created_at: int
    expires_at: int
    file_expires_after_seconds: int | None = None
    file_id: str | None = None


@dataclass(frozen=True, slots=True)
class PartRecord:
    id: str
    upload_id: str
    tenant: str
    bytes: int
    created_at: int
    blob: str


@dataclass(slots=True)
class _Turn:
    """Who joins the parts of one upload: one holds the lock, `users` counts that one and those who wait."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class Parts:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._turns: dict[str, _Turn] = {}

    @asynccontextmanager
    async def completing(self, upload_id: str) -> AsyncIterator[None]:
        """Held by whoever joins the parts: that takes minutes for a large file, a client that lost patience asks again,
        and nothing may take the parts away meanwhile (`expire` passes by)."""
        turn = self._turns.setdefault(upload_id, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if turn.users == 0:
                del self._turns[upload_id]

    def is_completing(self, upload_id: str) -> bool:
        return upload_id in self._turns

    async def create(self, record: UploadRecord) -> None:
        values = {name: getattr(record, name) for name in UploadRecord.__slots__}
        await self._database.write(lambda connection: connection.execute(sa.insert(uploads).values(values)))

    async def get(self, tenant: str, upload_id: str) -> UploadRecord | None:
        return await self._database.read(lambda connection: _find(connection, tenant, upload_id))

    async def add(self, part: PartRecord, *, parts_max: int) -> None:
        """NotPending unless the upload takes parts at `part.created_at`; TooManyParts when it has `parts_max`."""

        def add(connection: Connection) -> None:
            upload = _pending(connection, part.tenant, part.upload_id, part.created_at)
            if _count(connection, upload.id) >= parts_max:
                raise TooManyParts(f"upload {upload.id} has {parts_max:,} parts already, the most that one may have")
            values = {name: getattr(part, name) for name in PartRecord.__slots__}
            connection.execute(sa.insert(upload_parts).values(values))

        await self._database.write(add)

    async def of(self, upload_id: str) -> dict[str, PartRecord]:
        """Its parts by id."""
        query = sa.select(upload_parts).where(upload_parts.c.upload_id == upload_id)

        def parts(connection: Connection) -> dict[str, PartRecord]:
            return {row["id"]: PartRecord(**row) for row in connection.execute(query).mappings()}

        return await self._database.read(parts)

    async def complete(self, upload_id: str, file: FileRecord) -> list[str]:
        """The file exists and the upload is completed, or neither (NotPending)."""

        def complete(connection: Connection) -> list[str]:
            insert_file(connection, file)
            return _end(connection, file.tenant, upload_id, UploadStatus.COMPLETED, file.id)

        return await self._database.write(complete)

    async def cancel(self, tenant: str, upload_id: str, now: int) -> list[str]:
        """NotPending when it has ended already."""

        def cancel(connection: Connection) -> list[str]:
            _pending(connection, tenant, upload_id, now)
            return _end(connection, tenant, upload_id, UploadStatus.CANCELLED)

        return await self._database.write(cancel)

    async def expire(self, now: int, limit: int) -> list[str]:
        """End uploads past their time, the longest overdue first, and forget those that ended long ago."""
        overdue = (
            sa.select(uploads.c.id, uploads.c.tenant)
            .where(uploads.c.status == UploadStatus.PENDING.value, uploads.c.expires_at <= now)
            .order_by(uploads.c.expires_at)
            .limit(limit)
        )
        forgotten = sa.delete(uploads).where(
            uploads.c.status != UploadStatus.PENDING.value, uploads.c.expires_at <= now - ENDED_KEPT_SECONDS
        )

        def expire(connection: Connection) -> list[str]:
            blobs: list[str] = []
            for row in connection.execute(overdue).mappings().all():
                if not self.is_completing(row["id"]):
                    blobs += _end(connection, row["tenant"], row["id"], UploadStatus.EXPIRED)
            connection.execute(forgotten)
            return blobs

        return await self._database.write(expire)


def _find(connection: Connection, tenant: str, upload_id: str) -> UploadRecord | None:
    query = sa.select(uploads).where(uploads.c.id == upload_id, uploads.c.tenant == tenant)
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else _record(row)


def _record(row: RowMapping) -> UploadRecord:
    values = {name: row[name] for name in UploadRecord.__slots__}
    return UploadRecord(**{**values, "status": UploadStatus(values["status"])})


def _pending(connection: Connection, tenant: str, upload_id: str, now: int) -> UploadRecord:
    upload = _find(connection, tenant, upload_id)
    if upload is None:
        raise NotPending(f"there is no upload {upload_id}")
    if upload.status is not UploadStatus.PENDING:
        raise NotPending(f"upload {upload_id} is {upload.status.value}")
    if upload.expires_at <= now:
        raise NotPending(f"upload {upload_id} has expired")
    return upload


def _count(connection: Connection, upload_id: str) -> int:
    query = sa.select(sa.func.count()).select_from(upload_parts).where(upload_parts.c.upload_id == upload_id)
    return int(connection.scalar(query) or 0)


def _end(
    connection: Connection, tenant: str, upload_id: str, status: UploadStatus, file_id: str | None = None
) -> list[str]:
    ended = (
        sa.update(uploads)
        .where(uploads.c.id == upload_id, uploads.c.tenant == tenant)
        .where(uploads.c.status == UploadStatus.PENDING.value)
        .values(status=status.value, file_id=file_id)
    )
    if connection.execute(ended).rowcount != 1:
        raise NotPending(f"upload {upload_id} ended meanwhile")
    gone = sa.delete(upload_parts).where(upload_parts.c.upload_id == upload_id).returning(upload_parts.c.blob)
    return list(connection.scalars(gone))
