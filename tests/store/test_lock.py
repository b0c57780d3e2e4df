from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from store.lock import LOCK_NAME, FolderLock
from store.records import FolderLocked

HOLD = """
import sys
from pathlib import Path
from store.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_server_is_refused_with_the_firsts_pid_and_what_to_do(tmp_path: Path, holder) -> None:
    with pytest.raises(FolderLocked) as refused:
        FolderLock(tmp_path)
    assert str(refused.value) == (
        f"another server (pid {holder.pid}) is using the data folder {tmp_path}: "
        f"stop it (kill {holder.pid}), or give this one another folder"
    )


def test_a_killed_holder_frees_the_folder(tmp_path: Path, holder) -> None:
    holder.kill()
    holder.wait()
    lock = FolderLock(tmp_path)
    lock.release()


def test_a_released_folder_can_be_taken_again_and_names_the_new_holder(tmp_path: Path) -> None:
    first = FolderLock(tmp_path)
    with pytest.raises(FolderLocked, match="another server"):
        FolderLock(tmp_path)
    first.release()
    first.release()
    second = FolderLock(tmp_path)
    with pytest.raises(FolderLocked):
        FolderLock(tmp_path)
    second.release()


def test_a_holder_that_left_no_pid_is_still_refused(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    (tmp_path / LOCK_NAME).write_text("")
    with pytest.raises(FolderLocked, match="an unknown pid"):
        FolderLock(tmp_path)
    lock.release()


def test_the_lock_file_is_its_owners_only(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    assert (tmp_path / LOCK_NAME).stat().st_mode & 0o777 == 0o600
    lock.release()
