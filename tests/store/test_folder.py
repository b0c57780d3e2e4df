from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from store.folder import SECRET_BYTES, SUBFOLDERS, prepare_folder, read_or_make_secret
from store.records import Damaged, StoreError


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_new_data_folder_is_its_owners_only(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "data"
    prepare_folder(folder)
    prepare_folder(folder)
    assert {mode(path) for path in (folder, *(folder / name for name in SUBFOLDERS))} == {0o700}


def test_an_open_folder_that_is_empty_or_ours_is_closed(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    prepare_folder(tmp_path)
    assert mode(tmp_path) == 0o700
    (tmp_path / "nightbatch.lock").touch()
    tmp_path.chmod(0o755)
    prepare_folder(tmp_path)
    assert mode(tmp_path) == 0o700


def test_a_folder_full_of_other_things_keeps_its_mode_but_ours_in_it_are_closed(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").touch()
    tmp_path.chmod(0o755)
    prepare_folder(tmp_path)
    assert mode(tmp_path) == 0o755
    assert mode(tmp_path / "blobs") == 0o700


def test_a_folder_that_cannot_be_made_says_which_and_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot prepare the data folder .*file/data \(Not a directory"):
        prepare_folder(tmp_path / "file" / "data")


def test_the_secret_is_made_once_and_kept(tmp_path: Path) -> None:
    prepare_folder(tmp_path)
    secret = read_or_make_secret(tmp_path)
    assert len(secret) == SECRET_BYTES
    assert read_or_make_secret(tmp_path) == secret
    assert mode(tmp_path / "secret") == 0o600
    assert list((tmp_path / "tmp").iterdir()) == []


def test_two_that_start_at_once_agree_on_one_secret(tmp_path: Path) -> None:
    prepare_folder(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(read_or_make_secret, [tmp_path] * 8))) == 1


def test_a_cut_secret_is_damage_and_is_not_replaced(tmp_path: Path) -> None:
    prepare_folder(tmp_path)
    (tmp_path / "secret").write_bytes(b"short")
    with pytest.raises(Damaged, match="5 bytes instead of 32"):
        read_or_make_secret(tmp_path)
    assert (tmp_path / "secret").read_bytes() == b"short"
