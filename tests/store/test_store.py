from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

import store
from store import (
    BatchStatus,
    DiskFull,
    FileRecord,
    FolderLocked,
    NewBatch,
    NewShard,
    OnDeadline,
    PinnedModel,
    StoreError,
    StoreSettings,
    open_store,
)

LINE = (
    b'{"custom_id": "one", "method": "POST", "url": "/v1/chat/completions", '
    b'"body": {"model": "small", "messages": [{"role": "user", "content": "hello"}]}}\n'
)


def test_everything_promised_can_be_imported() -> None:
    for name in store.__all__:
        assert getattr(store, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        store.nonsense  # noqa: B018


async def test_opening_makes_the_whole_folder_and_opening_again_keeps_what_is_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    async with await open_store(folder) as first:
        await first.files.insert(FileRecord("file-1", "alice", "batch", "a.jsonl", 3, 1_000, None, "0" * 32))
    secret = (folder / "secret").read_bytes()
    async with await open_store(folder) as second:
        assert await second.files.get("alice", "file-1") is not None
    assert (folder / "secret").read_bytes() == secret
    assert {path.stat().st_mode & 0o077 for path in folder.iterdir()} == {0}


async def test_a_second_server_is_refused_until_the_first_has_closed(tmp_path: Path) -> None:
    first = await open_store(tmp_path)
    with pytest.raises(FolderLocked, match="give this one another folder"):
        await open_store(tmp_path)
    await first.close()
    await first.close()
    second = await open_store(tmp_path)
    await second.close()


async def test_only_the_holder_of_the_lock_clears_unfinished_uploads(tmp_path: Path) -> None:
    first = await open_store(tmp_path)
    (tmp_path / "tmp" / "upload").write_bytes(b"half")
    (tmp_path / "tmp" / "folder").mkdir()
    second = await open_store(tmp_path, lock=False)
    assert (tmp_path / "tmp" / "upload").exists()
    await second.close()
    await first.close()
    third = await open_store(tmp_path)
    assert list((tmp_path / "tmp").iterdir()) == []
    await third.close()


async def test_an_opening_that_fails_lets_the_folder_go(tmp_path: Path) -> None:
    await (await open_store(tmp_path)).close()
    connection = sqlite3.connect(tmp_path / "nightbatch.sqlite3")
    with connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    for _ in range(2):  # the second time too it is the version, not the lock
        with pytest.raises(StoreError, match="revision 9999"):
            await open_store(tmp_path)


async def test_a_file_is_uploaded_and_its_batch_is_worked_on_by_two_openers(tmp_path: Path) -> None:
    clock = [1_000.0]
    async with (
        await open_store(tmp_path, now=lambda: clock[0]) as server,
        await open_store(tmp_path, now=lambda: clock[0], lock=False) as scheduler,
    ):
        upload = await server.uploads.begin(indexed=True)
        await upload.write(LINE)
        stored = await upload.finish()
        file = FileRecord("file-1", "alice", "batch", "a.jsonl", stored.bytes, 1_000, None, stored.key, stored.summary)
        await server.files.insert(file)
        assert await server.files.get("alice", "file-1") == file
        assert server.index_path(stored.key).is_file()
        batch = await server.batches.create(
            NewBatch(
                id="batch-1",
                tenant="alice",
                endpoint="/v1/chat/completions",
                input_file_id="file-1",
                completion_window="24h",
                created_at=1_000,
                expires_at=87_400,
                on_deadline=OnDeadline.EXPIRE,
                models={"small": PinnedModel("small", "r1")},
            )
        )
        assert [found.id for found in await scheduler.batches.active()] == [batch.id]
        shards = [NewShard(0, 0, 1, "small", "r1")]
        assert await scheduler.work.admit(batch.id, shards=shards, total=1, at=1_001)
        leases = await asyncio.gather(
            *(
                opener.work.lease(
                    batch.id,
                    0,
                    holder=name,
                    expected_generation=0,
                    valid_bytes=0,
                    now=clock[0],
                    lease_seconds=30,
                )
                for name, opener in (("a", server), ("b", scheduler))
            )
        )
        assert len([lease for lease in leases if lease is not None]) == 1
        assert scheduler.segment_path(batch.id, 0, 1) == tmp_path / "work" / "batch-1" / "0-1.segment"
        assert scheduler.order_path(batch.id) == tmp_path / "work" / "batch-1" / "order"
        clock[0] += 31
        assert await server.work.leased(batch.id) == 0
        found = await server.batches.get("alice", batch.id)
        assert found is not None
        assert found.status is BatchStatus.IN_PROGRESS


async def test_an_upload_to_a_full_disk_is_refused(tmp_path: Path) -> None:
    free = [10_000_000]
    settings = StoreSettings(disk_reserve_bytes=1_000_000)
    async with await open_store(tmp_path, settings=settings, free_bytes_of=lambda _folder: free[0]) as opened:
        upload = await opened.uploads.begin(indexed=False)
        await upload.write(LINE)
        free[0] = 1_000_000
        with pytest.raises(DiskFull, match="no room for"):
            await upload.finish()
        await upload.abort()
        free[0] = 10_000_000
        upload = await opened.uploads.begin(indexed=False)
        await upload.write(LINE)
        assert (await upload.finish()).bytes == len(LINE)


@pytest.mark.parametrize("wrong", [{"readers_max": 0}, {"upload_bytes_max": -1}, {"disk_reserve_bytes": -1}])
def test_settings_out_of_range_are_refused_by_name(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        StoreSettings(**wrong)
