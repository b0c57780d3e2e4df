"""The data folder: what lies where, who may read it, and the secret that is made once.

nightbatch.lock  nightbatch.sqlite3  secret
tmp/                                             uploads and outputs being written
blobs/<2 hex>/<key>[.index]                      bytes of files, line indexes beside them
work/<batch_id>/order                            execution order of a batch
work/<batch_id>/<shard_no>-<generation>.segment  results
work/<batch_id>/answers.sqlite3                  answers that lines of the batch share, where it asks for that
reuse/answers.sqlite3                            answers that batches share; may be deleted while no server runs
engines/                                         engine processes' pid files and logs
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from store.durable import sync_folder
from store.lock import LOCK_NAME
from store.records import Damaged, StoreError

DATABASE_NAME = "nightbatch.sqlite3"
SECRET_NAME = "secret"  # noqa: S105 (a file name)
SECRET_BYTES = 32
SUBFOLDERS = ("tmp", "blobs", "work", "engines")
SEGMENT_SUFFIX = ".segment"


def prepare_folder(folder: Path) -> None:
    """Make the folder and its subfolders readable by their owner only.

    A folder that was there and holds other things keeps its own mode (someone may have named their home): what we put
    into it is closed all the same.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _is_ours(folder):
            folder.chmod(0o700)
        for name in SUBFOLDERS:
            (folder / name).mkdir(mode=0o700, exist_ok=True)
            (folder / name).chmod(0o700)
        sync_folder(folder)
    except OSError as error:
        raise StoreError(
            f"cannot prepare the data folder {folder} ({error.strerror}: {error.filename}): "
            "choose another one, or give this user the right to write there"
        ) from error


def _is_ours(folder: Path) -> bool:
    if folder.stat().st_uid != os.geteuid():
        return False
    names = {entry.name for entry in folder.iterdir()}
    return not names or LOCK_NAME in names or DATABASE_NAME in names


def read_or_make_secret(folder: Path) -> bytes:
    """The key of the data folder's hashes. Two processes that start at once agree on one."""
    path = folder / SECRET_NAME
    if not path.exists():
        _make_secret(folder, path)
    secret = path.read_bytes()
    if len(secret) != SECRET_BYTES:
        raise Damaged(f"{path} has {len(secret)} bytes instead of {SECRET_BYTES}: restore it from a backup")
    return secret


def _make_secret(folder: Path, path: Path) -> None:
    draft = folder / "tmp" / f"{SECRET_NAME}-{secrets.token_hex(8)}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, secrets.token_bytes(SECRET_BYTES))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    try:
        os.link(draft, path)  # unlike a rename, it never replaces the secret of a process that was faster
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    sync_folder(folder)
