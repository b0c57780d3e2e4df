"""Two engines on one file: nothing is lost, readers never write, a cancelled caller breaks nothing."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from store.records import Damaged, DiskFull, StoreError
from store.settings import StoreSettings
from store.sqlite import Database
from tests.support.metadata import Metadata

COUNTER = "CREATE TABLE counter (id INTEGER PRIMARY KEY, value INTEGER NOT NULL)"


def run(sql: str):
    def execute(connection: Connection) -> list[tuple[object, ...]]:
        result = connection.execute(sa.text(sql))
        return [tuple(row) for row in result] if result.returns_rows else []

    return execute


def count_up(connection: Connection) -> None:
    value = connection.scalar(sa.text("SELECT value FROM counter WHERE id = 1"))
    connection.execute(sa.text("UPDATE counter SET value = :value WHERE id = 1"), {"value": value + 1})


@pytest.fixture
async def counter(metadata: Metadata) -> Database:
    await metadata.database.write(run(COUNTER))
    await metadata.database.write(run("INSERT INTO counter VALUES (1, 0)"))
    return metadata.database


async def test_concurrent_read_modify_writes_lose_nothing(counter: Database) -> None:
    async def fifty() -> None:
        for _ in range(50):
            await counter.write(count_up)

    await asyncio.gather(*(fifty() for _ in range(8)))
    assert await counter.read(run("SELECT value FROM counter")) == [(400,)]


async def test_two_processes_worth_of_writers_lose_nothing(counter: Database) -> None:
    other = Database(counter.path, StoreSettings())

    async def fifty(database: Database) -> None:
        for _ in range(50):
            await database.write(count_up)

    await asyncio.gather(*(fifty(database) for database in (counter, other, counter, other)))
    await other.close()
    assert await counter.read(run("SELECT value FROM counter")) == [(200,)]


async def test_a_reader_cannot_write(counter: Database) -> None:
    with pytest.raises(StoreError, match="readonly"):
        await counter.read(run("UPDATE counter SET value = 7"))
    assert await counter.read(run("SELECT value FROM counter")) == [(0,)]


async def test_a_failed_transaction_leaves_nothing(counter: Database) -> None:
    def half(connection: Connection) -> None:
        count_up(connection)
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        await counter.write(half)
    assert await counter.read(run("SELECT value FROM counter")) == [(0,)]


async def test_readers_see_the_last_commit_while_a_write_is_under_way(counter: Database) -> None:
    counted, let_go = threading.Event(), threading.Event()

    def held_open(connection: Connection) -> None:
        def wait(value: int) -> int:
            counted.set()
            assert let_go.wait(30)
            return value

        # The function runs on the connection's own thread: the transaction stands still there, not on the loop.
        connection.connection.driver_connection._conn.create_function("wait_for_test", 1, wait)
        connection.execute(sa.text("UPDATE counter SET value = wait_for_test(1)"))

    writing = asyncio.create_task(counter.write(held_open))
    assert await asyncio.to_thread(counted.wait, 30)
    assert await counter.read(run("SELECT value FROM counter")) == [(0,)]
    let_go.set()
    await writing
    assert await counter.read(run("SELECT value FROM counter")) == [(1,)]


async def test_cancelled_writers_leave_whole_transactions_and_a_working_connection(counter: Database) -> None:
    await counter.write(run("INSERT INTO counter VALUES (2, 0)"))

    def both(connection: Connection) -> None:
        for number in (1, 2):
            connection.execute(sa.text("UPDATE counter SET value = value + 1 WHERE id = :id"), {"id": number})

    for turns in range(40):
        task = asyncio.create_task(counter.write(both))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
    (one,), (two,) = await counter.read(run("SELECT value FROM counter ORDER BY id"))
    assert one == two
    await counter.write(both)
    assert await counter.read(run("SELECT value FROM counter ORDER BY id")) == [(one + 1,), (one + 1,)]


async def test_a_cancelled_call_still_raises_cancelled_when_its_transaction_fails(
    counter: Database, caplog: pytest.LogCaptureFixture
) -> None:
    task = asyncio.create_task(counter.write(run("INSERT INTO counter VALUES (1, 1)")))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "UNIQUE constraint failed" in caplog.text


async def test_every_connection_has_its_pragmas(metadata: Metadata) -> None:
    async def pragma(name: str, call) -> object:
        return (await call(run(f"PRAGMA {name}")))[0][0]

    write, read = metadata.database.write, metadata.database.read
    assert await pragma("journal_mode", write) == "wal"
    assert await pragma("synchronous", write) == 2  # full
    assert await pragma("foreign_keys", write) == 1
    assert await pragma("busy_timeout", write) == 5_000
    assert await pragma("busy_timeout", read) == 5_000
    assert await pragma("query_only", read) == 1


async def test_a_full_disk_is_disk_full_and_costs_nothing_stored(counter: Database) -> None:
    await counter.write(run("CREATE TABLE filler (bytes BLOB)"))
    pages = (await counter.write(run("PRAGMA page_count")))[0][0]
    await counter.write(run(f"PRAGMA max_page_count = {pages + 2}"))
    with pytest.raises(DiskFull, match="free some space"):
        await counter.write(run("INSERT INTO filler VALUES (zeroblob(1000000))"))
    await counter.write(count_up)
    assert await counter.read(run("SELECT value FROM counter")) == [(1,)]


async def test_a_lock_held_by_another_process_is_named(migrated: Path, tmp_path: Path) -> None:
    path = tmp_path / "locked.sqlite3"
    path.write_bytes(migrated.read_bytes())
    database = Database(path, StoreSettings(busy_timeout_seconds=0.05))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked by another process"):
        await database.write(run("DELETE FROM files"))
    other.execute("ROLLBACK")
    await database.write(run("DELETE FROM files"))
    other.close()
    await database.close()


async def test_a_file_that_is_no_database_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "nightbatch.sqlite3"
    path.write_bytes(b"these are not the bytes of a database" * 100)
    database = Database(path, StoreSettings())
    with pytest.raises(Damaged, match="restore it from a backup"):
        await database.write(run("SELECT 1"))
    await database.close()


async def test_more_calls_than_connections_wait_their_turn(metadata: Metadata) -> None:
    found = await asyncio.gather(*(metadata.database.read(run("SELECT 1")) for _ in range(100)))
    assert found == [[(1,)]] * 100


async def test_a_call_that_finds_no_connection_free_in_time_says_so(metadata: Metadata) -> None:
    database = Database(metadata.path, StoreSettings(readers_max=1, pool_timeout_seconds=0.05))
    async with database.reader.connect():
        with pytest.raises(StoreError, match="too many calls at once"):
            await database.read(run("SELECT 1"))
    assert await database.read(run("SELECT 1")) == [(1,)]
    await database.close()
