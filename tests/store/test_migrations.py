from __future__ import annotations

import importlib.resources
import os
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from store import migrations
from store.records import StoreError
from store.schema import metadata


def python(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


def definitions(path: Path) -> dict[str, str]:
    """Every table and index with its columns and constraints, whatever the order of the constraints."""
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    connection.close()
    return {
        name: ", ".join(sorted(parts(sql))) for name, sql in rows if name not in {"alembic_version", "sqlite_sequence"}
    }


def parts(sql: str) -> list[str]:
    """A definition cut at its commas of the first level: SQLite writes a column that was added later on one line with
    others."""
    if not sql.startswith("CREATE TABLE"):
        return [" ".join(sql.split())]
    head, _, body = sql.partition("(")
    found, depth = [""], 0
    for character in body.rpartition(")")[0]:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth == 0:
            found.append("")
        else:
            found[-1] += character
    return [head.replace('"', "").strip(), *(" ".join(part.split()) for part in found)]


def test_migrating_from_nothing_gives_the_schema_of_today_to_the_last_constraint(tmp_path: Path) -> None:
    migrated, made = tmp_path / "migrated.sqlite3", tmp_path / "made.sqlite3"
    migrations.upgrade(migrated)
    engine = sa.create_engine(f"sqlite:///{made}")
    metadata.create_all(engine)
    engine.dispose()
    assert definitions(migrated) == definitions(made)


def test_alembic_finds_nothing_left_to_do(migrated: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{migrated}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_head_names_the_newest_revision(tmp_path: Path) -> None:
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection:
        assert ScriptDirectory.from_config(migrations.config(connection)).get_heads() == [migrations.HEAD]
    engine.dispose()


def test_up_down_and_up_again(tmp_path: Path) -> None:
    path = tmp_path / "nightbatch.sqlite3"
    migrations.upgrade(path)
    first = definitions(path)
    migrations.downgrade(path, "base")
    assert definitions(path) == {}
    migrations.upgrade(path)
    assert definitions(path) == first
    assert migrations.revision(path) == migrations.HEAD


def test_several_that_start_at_once_migrate_once(tmp_path: Path) -> None:
    path = tmp_path / "nightbatch.sqlite3"
    script = f"from pathlib import Path; from store import migrations; migrations.upgrade(Path({str(path)!r}))"
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(python, [script] * 4))
    assert [(process.returncode, process.stderr) for process in done] == [(0, "")] * 4
    assert migrations.revision(path) == migrations.HEAD


def test_a_database_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "nightbatch.sqlite3"
    migrations.upgrade(path)
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(StoreError, match=r"revision 9999, which this version .* a newer one wrote it"):
        migrations.upgrade(path)
    assert migrations.revision(path) == "9999"


def test_the_database_file_is_its_owners_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        migrations.upgrade(tmp_path / "nightbatch.sqlite3")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_a_start_with_nothing_to_do_does_not_load_alembic(migrated: Path) -> None:
    script = f"""
import sys
from pathlib import Path
from store import migrations
migrations.upgrade(Path({str(migrated)!r}))
print([name for name in sys.modules if name.startswith("alembic")])
"""
    assert python(script).stdout == "[]\n"


def test_the_scripts_lie_inside_the_package() -> None:
    folder = importlib.resources.files("store.migrations")
    assert (folder / "env.py").is_file()
    assert (folder / "script.py.mako").is_file()
    assert [name.name for name in (folder / "versions").iterdir() if name.name.endswith(".py")]
