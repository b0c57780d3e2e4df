"""Answers that may be given again to the same question: a bounded SQLite file of its own, apart from the metadata.

It is a cache: nothing that a client was told depends on it. What cannot be read, fails its checksum or finds no room is
as if it had never been kept; a damaged file is thrown away and begun anew. So no method raises, and commits need not
survive a power cut (`synchronous=normal`: the file stays whole, its last answers may be missing).
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

import xxhash

from store.records import KeptAnswer

log = logging.getLogger(__name__)

T = TypeVar("T")

FORMAT: Final = 1
ANSWER_BYTES_MAX: Final = 1024 * 1024
"""Longer answers are not kept: few would fill the file, and one is in memory as a whole when it is given again."""

ROW_BYTES: Final = 128
"""What an answer takes beside its body."""

USED_SECONDS: Final = 3600
"""An answer's last use is noted only this finely, or each reading would be a write."""

KEYS_AT_ONCE: Final = 256
ROWS_AT_ONCE: Final = 1000
BUSY_SECONDS: Final = 1.0
REST_SECONDS: Final = 10.0
"""After a failure the file is left alone for so long."""

_VACUUM: Final = "PRAGMA incremental_vacuum(2000)"
_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_PRAGMAS: Final = (
    "auto_vacuum=incremental",  # before the first table
    "journal_mode=wal",
    "synchronous=normal",
    "wal_autocheckpoint=2000",
    "journal_size_limit=16777216",
)
_ANSWERS: Final = (
    "id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, used_at INTEGER NOT NULL, size INTEGER NOT NULL, "
    "status INTEGER NOT NULL, checksum BLOB NOT NULL"
)
_TABLES: Final = (
    f"CREATE TABLE IF NOT EXISTS answers ({_ANSWERS})",
    "CREATE INDEX IF NOT EXISTS answers_by_use ON answers (used_at)",
    # Apart: noting the use of an answer must not write its body again.
    "CREATE TABLE IF NOT EXISTS bodies (id INTEGER PRIMARY KEY, body BLOB NOT NULL)",
    f"PRAGMA user_version={FORMAT}",
)


class KeptAnswers:
    """One file. Blocking; from any thread, one at a time.

    At `bytes_max` the answers that were not used for longest go; those not used for `kept_seconds` (None: for ever) are
    not given any more. While `has_room` says no, nothing is added.
    """

    def __init__(
        self,
        path: Path,
        *,
        bytes_max: int,
        kept_seconds: float | None,
        has_room: Callable[[], bool],
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self._bytes_max = bytes_max
        self._kept_seconds = kept_seconds
        self._has_room = has_room
        self._now = now
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._bytes = 0
        self._rests_until = float("-inf")
        self._closed = False

    def known(self, keys: Iterable[bytes]) -> dict[bytes, int]:
        """Of those that have an answer, how many bytes it has."""
        return self._try(lambda connection: self._known(connection, list(dict.fromkeys(keys))), {})

    def read(self, keys: Iterable[bytes]) -> dict[bytes, KeptAnswer]:
        """The answers that are there. Each was used just now."""
        return self._try(lambda connection: self._read(connection, list(dict.fromkeys(keys))), {})

    def keep(self, answers: Sequence[KeptAnswer]) -> int:
        """Keep what is not there yet; how many."""
        fitting = [answer for answer in answers if len(answer.body) <= min(ANSWER_BYTES_MAX, self._bytes_max)]
        if not fitting or not self._has_room():
            return 0
        return self._try(lambda connection: self._keep(connection, fitting), 0)

    def trim(self) -> int:
        """Take away what was not used for too long, some at a time, and give back what the file does not need."""
        if self._kept_seconds is None or not self.path.exists():
            return 0
        gone, total = ROWS_AT_ONCE, 0
        while gone >= ROWS_AT_ONCE:
            gone = self._try(self._forget_unused, 0)
            total += gone
        self._try(lambda connection: connection.execute(_VACUUM).fetchall(), [])
        return total

    def close(self) -> None:
        """From here on nothing is found and nothing kept."""
        with self._lock:
            self._closed = True
            self._disconnect()

    def _try(self, work: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        with self._lock:
            if self._closed or self._monotonic() < self._rests_until:
                return otherwise
            try:
                if self._connection is None:
                    self._connection = self._connect()
                return work(self._connection)
            except (sqlite3.Error, OSError, TypeError, ValueError) as error:
                self._rests_until = self._monotonic() + REST_SECONDS
                self._disconnect()  # what was begun is undone with it
                if _is_damage(error):
                    log.warning("%s is damaged and begun anew: %s", self.path, error)
                    _delete(self.path)
                else:
                    log.warning("kept answers are left alone for %.0f s: %s: %s", REST_SECONDS, self.path, error)
                return otherwise

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        connection = _connected(self.path)
        try:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version not in {0, FORMAT}:
                connection.close()
                _delete(self.path)
                connection = _connected(self.path)
            for statement in (*(f"PRAGMA {pragma}" for pragma in _PRAGMAS), *_TABLES):
                connection.execute(statement).fetchall()
            (self._bytes,) = connection.execute("SELECT coalesce(sum(size), 0) FROM answers").fetchone()
        except BaseException:
            connection.close()
            raise
        return connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _known(self, connection: sqlite3.Connection, keys: list[bytes]) -> dict[bytes, int]:
        found: dict[bytes, int] = {}
        for some, marks in _pieces(keys):
            query = f"SELECT key, size FROM answers WHERE key IN ({marks}) AND used_at >= ?"  # noqa: S608 (marks only)
            found |= {key: size - ROW_BYTES for key, size in connection.execute(query, [*some, self._oldest()])}
        return found

    def _read(self, connection: sqlite3.Connection, keys: list[bytes]) -> dict[bytes, KeptAnswer]:
        found: dict[bytes, KeptAnswer] = {}
        used: list[int] = []
        broken: list[int] = []
        now = int(self._now())
        for some, marks in _pieces(keys):
            query = (
                "SELECT key, id, status, checksum, used_at, body FROM answers JOIN bodies USING (id) "  # noqa: S608
                f"WHERE key IN ({marks}) AND used_at >= ?"
            )
            for key, row_id, status, checksum, used_at, body in connection.execute(query, [*some, self._oldest()]):
                answer = KeptAnswer(key, status, body)
                if not isinstance(body, bytes) or checksum_of(answer) != checksum:
                    broken.append(row_id)
                    continue
                found[key] = answer
                if used_at < now - USED_SECONDS:
                    used.append(row_id)
        if used or broken:
            with _transaction(connection):
                connection.executemany("UPDATE answers SET used_at = ? WHERE id = ?", [(now, no) for no in used])
                _remove(connection, broken)
        if broken:
            log.warning("%d kept answers in %s fail their checksum; they are generated again", len(broken), self.path)
        return found

    def _keep(self, connection: sqlite3.Connection, answers: Sequence[KeptAnswer]) -> int:
        now, kept, added = int(self._now()), 0, 0
        with _transaction(connection):
            for answer in answers:
                size = len(answer.body) + ROW_BYTES
                row = (answer.key, now, size, answer.status_code, checksum_of(answer))
                cursor = connection.execute(
                    "INSERT INTO answers (key, used_at, size, status, checksum) VALUES (?, ?, ?, ?, ?) "
                    "ON CONFLICT (key) DO NOTHING",
                    row,
                )
                if cursor.rowcount == 1:
                    connection.execute("INSERT OR REPLACE INTO bodies VALUES (?, ?)", (cursor.lastrowid, answer.body))
                    added += size
                    kept += 1
            removed = self._make_room(connection, self._bytes + added - self._bytes_max)
        self._bytes += added - removed
        return kept

    def _make_room(self, connection: sqlite3.Connection, needed: int) -> int:
        """Remove at least so many bytes of what was not used for longest; how many went."""
        removed = 0
        while removed < needed:
            query = "SELECT id, size FROM answers ORDER BY used_at, id LIMIT ?"
            gone: list[int] = []
            for row_id, size in connection.execute(query, (ROWS_AT_ONCE,)).fetchall():
                if removed >= needed:
                    break
                gone.append(row_id)
                removed += size
            if not gone:
                break
            _remove(connection, gone)
        return removed

    def _forget_unused(self, connection: sqlite3.Connection) -> int:
        query = "SELECT id, size FROM answers WHERE used_at < ? ORDER BY used_at LIMIT ?"
        rows = connection.execute(query, (self._oldest(), ROWS_AT_ONCE)).fetchall()
        with _transaction(connection):
            _remove(connection, [row_id for row_id, _ in rows])
        self._bytes -= sum(size for _, size in rows)
        return len(rows)

    def _oldest(self) -> int:
        """The last use of the oldest answer that counts."""
        return 0 if self._kept_seconds is None else int(self._now() - self._kept_seconds)


def checksum_of(answer: KeptAnswer) -> bytes:
    """Of the key too: an answer in another's place is no answer."""
    digest = xxhash.xxh3_64(b"%b %d " % (answer.key, answer.status_code))
    digest.update(answer.body)
    return digest.digest()


def _connected(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """A failure inside ends the connection, and the transaction with it."""
    connection.execute("BEGIN IMMEDIATE")
    yield
    connection.execute("COMMIT")


def _remove(connection: sqlite3.Connection, row_ids: Sequence[int]) -> None:
    for table in ("bodies", "answers"):
        connection.executemany(f"DELETE FROM {table} WHERE id = ?", [(row_id,) for row_id in row_ids])  # noqa: S608


def _pieces(keys: Sequence[bytes]) -> Iterator[tuple[Sequence[bytes], str]]:
    """Some keys at a time, and as many question marks."""
    for start in range(0, len(keys), KEYS_AT_ONCE):
        some = keys[start : start + KEYS_AT_ONCE]
        yield some, ", ".join("?" * len(some))


def _is_damage(error: Exception) -> bool:
    """A value of a kind that was never written is damage too."""
    if isinstance(error, TypeError | ValueError):
        return True
    return (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF in _DAMAGE


def _delete(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
