"""The database's history, and the way to its newest state. Alembic is configured here, by program: an installed wheel
has no alembic.ini."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL
from sqlalchemy.pool import NullPool

from store.durable import sync_folder
from store.records import StoreError
from store.settings import StoreSettings
from store.sqlite import explain

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0004"
"""The newest revision: lets a start skip alembic when there is nothing to do."""


def upgrade(path: Path, settings: StoreSettings | None = None) -> None:
    """Bring the database at `path` to the newest revision, creating it (0600) if need be, in one transaction. Blocks.

    Raises StoreError when a newer version of the program wrote it.
    """
    settings = settings or StoreSettings()
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    with _begin(path, settings.busy_timeout_seconds) as connection:
        before = _revision(connection)
        if before == HEAD:
            return
        from alembic import command
        from alembic.util import CommandError

        try:
            command.upgrade(config(connection), "head")
        except CommandError as error:
            if "Can't locate revision" not in str(error):
                raise
            raise StoreError(
                f"{path} is at revision {before}, which this version (revision {HEAD}) does not know: "
                "a newer one wrote it, so run that one, or use another data folder"
            ) from error
        _check_references(connection, path)
    sync_folder(path.parent)


def downgrade(path: Path, to: str) -> None:
    """Take the database back to revision `to` ("base": to nothing), in one transaction. Blocks."""
    from alembic import command

    with _begin(path, StoreSettings().busy_timeout_seconds) as connection:
        command.downgrade(config(connection), to)
        _check_references(connection, path)


def revision(path: Path) -> str | None:
    """The revision of the database at `path`, None when it has no tables yet."""
    with _begin(path, StoreSettings().busy_timeout_seconds) as connection:
        return _revision(connection)


def config(connection: sa.Connection) -> Config:
    from alembic.config import Config

    configured = Config()
    configured.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    configured.attributes["connection"] = connection
    return configured


@contextmanager
def _begin(path: Path, busy_timeout_seconds: float) -> Iterator[sa.Connection]:
    """A write transaction of its own on the database. Foreign keys are off in it: a migration that rebuilds a table
    drops it on the way, which would take the rows that refer to it along."""
    engine = sa.create_engine(URL.create("sqlite", database=str(path)), poolclass=NullPool)

    @event.listens_for(engine, "connect")
    def on_connect(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout={int(busy_timeout_seconds * 1000)}")
        connection.execute("PRAGMA journal_mode=wal")
        connection.execute("PRAGMA synchronous=full")
        connection.execute("PRAGMA foreign_keys=off")

    @event.listens_for(engine, "begin")
    def on_begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    try:
        with engine.begin() as connection:
            yield connection
    except sa.exc.SQLAlchemyError as error:
        known = explain(error, path)
        if known is None:
            raise
        raise known from error
    finally:
        engine.dispose()


def _revision(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    return found


def _check_references(connection: sa.Connection, path: Path) -> None:
    broken = connection.execute(sa.text("PRAGMA foreign_key_check")).all()
    if broken:
        raise StoreError(f"migrating {path} would leave {len(broken)} rows without their parent: undone")
