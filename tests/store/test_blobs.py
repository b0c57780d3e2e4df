from __future__ import annotations

import os
from pathlib import Path

import pytest

from store.blobs import READ_BYTES, Blobs, StoredBlob
from store.records import NotFound


def stored(blobs: Blobs, data: bytes) -> StoredBlob:
    writer = blobs.open_writer()
    writer.write(data)
    return writer.commit()


async def read(blobs: Blobs, key: str, start: int = 0, stop: int | None = None) -> bytes:
    return b"".join([chunk async for chunk in blobs.read(key, start, stop)])


async def test_a_blob_is_read_back_whole_and_in_ranges(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    data = os.urandom(2 * READ_BYTES + 7)
    blob = stored(blobs, data)
    assert blob == StoredBlob(blob.key, len(data))
    assert await blobs.size(blob.key) == len(data)
    assert await read(blobs, blob.key) == data
    assert await read(blobs, blob.key, 5, 9) == data[5:9]
    assert await read(blobs, blob.key, READ_BYTES - 1) == data[READ_BYTES - 1 :]
    assert await read(blobs, blob.key, 9, 9) == b""
    assert await read(blobs, blob.key, len(data) + 5) == b""


async def test_a_blob_has_no_name_before_it_is_committed(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    writer = blobs.open_writer()
    writer.write(b"half")
    assert await blobs.keys() == []
    writer.abort()
    assert list((tmp_path / "tmp").iterdir()) == []


async def test_a_deleted_blob_is_read_to_its_end_by_who_began(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    blob = stored(blobs, b"x" * (READ_BYTES + 3))
    reading = blobs.read(blob.key)
    first = await anext(reading)
    await blobs.delete(blob.key)
    assert len(first) + sum([len(chunk) async for chunk in reading]) == READ_BYTES + 3
    with pytest.raises(NotFound):
        await blobs.size(blob.key)
    with pytest.raises(NotFound):
        await read(blobs, blob.key)
    await blobs.delete(blob.key)


async def test_a_download_given_up_half_way_closes_its_file(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    blob = stored(blobs, b"x" * (2 * READ_BYTES))
    before = len(list(Path("/proc/self/fd").iterdir()))
    reading = blobs.read(blob.key)
    await anext(reading)
    await reading.aclose()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


async def test_keys_are_those_not_written_to_for_a_while(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    old, new = stored(blobs, b"old"), stored(blobs, b"new")
    orphan = blobs.index_path("ab" * 16)
    orphan.parent.mkdir(exist_ok=True)
    orphan.touch()
    for path in (blobs.path(old.key), orphan):
        os.utime(path, (1, 1))
    assert await blobs.keys(older_than_seconds=3600) == sorted([old.key, "ab" * 16])
    assert await blobs.keys() == sorted([old.key, new.key, "ab" * 16])


@pytest.mark.parametrize("key", ["", "../../etc/passwd", "AB" * 16, "ab" * 16 + ".index", "ab" * 15])
def test_what_is_not_a_key_never_becomes_a_path(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="not the key of a blob"):
        Blobs(tmp_path).path(key)
