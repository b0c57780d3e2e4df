"""One SQLite file, two SQLAlchemy engines: one connection that writes and a few that read.

A transaction is a plain function of a connection. It runs from BEGIN to COMMIT without anything else awaited in
between, so nothing slow can hold the write lock, and a caller that is cancelled leaves it whole or undone, never half.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import event, exc
from sqlalchemy.engine import URL, Connection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from store.records import Damaged, DiskFull, StoreError
from store.settings import MIB, StoreSettings

log = logging.getLogger(__name__)

T = TypeVar("T")

WAL_BYTES_KEPT_MAX = 64 * MIB
SQLITE_VERSION_MIN = (3, 35, 0)
"""RETURNING came with 3.35."""


class Database:
    """The metadata file. `read` and `write` run a function of a connection in one transaction.

    The writer takes its lock at BEGIN: a transaction that read first and then found the file changed by another process
    would have to be undone, and with the driver's defaults its update is lost without an error. Readers see a snapshot
    and never wait for the writer.
    """

    def __init__(self, path: Path, settings: StoreSettings) -> None:
        if sqlite3.sqlite_version_info < SQLITE_VERSION_MIN:
            wanted = ".".join(map(str, SQLITE_VERSION_MIN))
            raise StoreError(f"SQLite {sqlite3.sqlite_version} is too old, {wanted} or newer is needed: update Python")
        self.path = path
        busy = f"busy_timeout={int(settings.busy_timeout_seconds * 1000)}"
        self.writer = _engine(
            path,
            connections=1,
            timeout_seconds=settings.pool_timeout_seconds,
            begin="BEGIN IMMEDIATE",
            pragmas=(
                busy,
                "journal_mode=wal",
                "synchronous=full",  # an acknowledged commit survives a power cut, not only a kill
                "foreign_keys=on",
                f"journal_size_limit={WAL_BYTES_KEPT_MAX}",
            ),
        )
        self.reader = _engine(
            path,
            connections=settings.readers_max,
            timeout_seconds=settings.pool_timeout_seconds,
            begin="BEGIN",
            pragmas=(busy, "query_only=on"),
        )

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Run `query` on one snapshot; it cannot change anything."""
        return await _finish(_transact(self.reader, query, self.path))

    async def write(self, transaction: Callable[[Connection], T]) -> T:
        """Run `transaction` alone; it is durable when this returns, and undone when it raises."""
        return await _finish(_transact(self.writer, transaction, self.path))

    async def close(self) -> None:
        await self.reader.dispose()
        await self.writer.dispose()


def _engine(
    path: Path, *, connections: int, timeout_seconds: float, begin: str, pragmas: tuple[str, ...]
) -> AsyncEngine:
    engine = create_async_engine(
        URL.create("sqlite+aiosqlite", database=str(path)),
        poolclass=AsyncAdaptedQueuePool,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=timeout_seconds,
    )

    @event.listens_for(engine.sync_engine, "connect")
    def on_connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # or the driver begins transactions of its own, deferred ones
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


async def _transact(engine: AsyncEngine, function: Callable[[Connection], T], path: Path) -> T:
    try:
        async with engine.begin() as connection:
            return await connection.run_sync(function)
    except exc.SQLAlchemyError as error:
        known = explain(error, path)
        if known is None:
            raise
        raise known from error


async def _finish(transaction: Coroutine[Any, Any, T]) -> T:
    """Await a transaction to its end even when the caller is cancelled: an interrupted one would cost the connection,
    and its caller could not know whether it had been committed."""
    task = asyncio.ensure_future(transaction)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError:
                continue
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("a transaction of a cancelled call failed: %s", error)
        raise


def explain(error: exc.SQLAlchemyError, path: Path) -> StoreError | None:
    """What the database's failure means to the store's callers, or None when it is a mistake in the store itself."""
    if isinstance(error, exc.TimeoutError):
        return StoreError(f"no free connection to {path}: too many calls at once, try again")
    code = getattr(getattr(error, "orig", None), "sqlite_errorcode", None)
    if code is None:
        return None
    match code & 0xFF:  # the low byte is the kind, the rest details it
        case sqlite3.SQLITE_FULL:
            return DiskFull("the disk of the database is full: free some space, nothing was lost", path)
        case sqlite3.SQLITE_BUSY:
            return StoreError(f"{path} is locked by another process: end it, or try again")
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return Damaged(f"{path} is damaged ({getattr(error, 'orig', error)}): restore it from a backup")
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_IOERR | sqlite3.SQLITE_PERM:
            return StoreError(f"cannot use {path} ({getattr(error, 'orig', error)}): check the folder and its disk")
        case _:
            return None
