from __future__ import annotations

import pytest

from store.files import DELETED_CURSOR_SECONDS, KEYS_ASKED_MAX
from store.records import BatchStatus, FileInUse, InputSummary, LineError, NotFound
from tests.support.metadata import Metadata


async def ids(metadata: Metadata, *, tenant: str = "alice", **query: object) -> tuple[list[str], bool]:
    page = await metadata.files.list(tenant, **({"after": None, "limit": 100} | query))
    return [file.id for file in page.data], page.has_more


async def test_a_file_comes_back_as_it_was_stored(metadata: Metadata) -> None:
    summary = InputSummary(
        lines=3,
        error_lines=1,
        models=("small", "große"),
        urls=("/v1/chat/completions",),
        sub_requests=4,
        prompt_bytes=10**12,
        errors=(LineError("invalid_json_line", "line 2 is no JSON", None, 2),),
    )
    stored = await metadata.file(expires_at=5_000, summary=summary, bytes=2**40)
    assert await metadata.files.get("alice", stored.id) == stored


async def test_another_tenants_file_is_not_there(metadata: Metadata) -> None:
    file = await metadata.file()
    assert await metadata.files.get("bob", file.id) is None
    assert await metadata.files.delete("bob", file.id) is None
    assert (await metadata.files.list("bob", after=None, limit=10)).data == ()
    assert await ids(metadata, tenant="bob", after=file.id) == ([], False)
    assert await metadata.files.get("alice", file.id) == file


async def test_pages_meet_without_gap_or_overlap_and_has_more_is_exact(metadata: Metadata) -> None:
    stored = [(await metadata.file(number, created_at=900)).id for number in range(6)]
    for ascending in (False, True):
        seen: list[str] = []
        for expected_more in (True, False):
            after = seen[-1] if seen else None
            found, more = await ids(metadata, after=after, limit=3, ascending=ascending)
            assert more is expected_more
            seen += found
        assert seen == (stored if ascending else stored[::-1])
        assert await ids(metadata, after=seen[-1], limit=3, ascending=ascending) == ([], False)


async def test_files_that_arrive_while_paging_do_not_move_the_pages(metadata: Metadata) -> None:
    stored = [(await metadata.file(number)).id for number in range(4)]
    first, _ = await ids(metadata, limit=2)
    await metadata.file(9)
    second, more = await ids(metadata, after=first[-1], limit=2)
    assert first + second == stored[::-1]
    assert not more


async def test_purposes_are_listed_apart(metadata: Metadata) -> None:
    await metadata.file(1)
    await metadata.file(2, purpose="batch_output")
    await metadata.file(3)
    assert await ids(metadata, purpose="batch_output") == (["file-alice-2"], False)
    assert await ids(metadata, purpose="batch", limit=1) == (["file-alice-3"], True)
    assert await ids(metadata, purpose="batch", limit=1, after="file-alice-3") == (["file-alice-1"], False)


async def test_deleting_each_file_of_a_listing_reaches_them_all(metadata: Metadata) -> None:
    for number in range(7):
        await metadata.file(number)
    after, deleted = None, 0
    while True:
        page = await metadata.files.list("alice", after=after, limit=2)
        for file in page.data:
            assert await metadata.files.delete("alice", file.id) == file
            after, deleted = file.id, deleted + 1
        if not page.has_more:
            break
    assert deleted == 7


async def test_an_unknown_cursor_gives_an_empty_page(metadata: Metadata) -> None:
    await metadata.file()
    assert await ids(metadata, after="file-never") == ([], False)


async def test_a_deleted_file_is_forgotten_as_a_cursor_in_the_end(metadata: Metadata) -> None:
    for number in range(3):
        await metadata.file(number)
    await metadata.files.delete("alice", "file-alice-2")
    assert await ids(metadata, after="file-alice-2") == (["file-alice-1", "file-alice-0"], False)
    metadata.clock += DELETED_CURSOR_SECONDS + 2
    await metadata.files.delete("alice", "file-alice-1")
    assert await ids(metadata, after="file-alice-2") == ([], False)
    assert await ids(metadata, after="file-alice-1") == (["file-alice-0"], False)


async def test_an_input_cannot_be_deleted_until_its_batch_has_ended(metadata: Metadata) -> None:
    batch = await metadata.batch()
    with pytest.raises(FileInUse, match=batch.id):
        await metadata.files.delete("alice", batch.input_file_id)
    assert await metadata.files.delete("bob", batch.input_file_id) is None
    await metadata.batches.fail(batch.id, errors=(), errors_total=0, at=1_001)
    assert (await metadata.files.delete("alice", batch.input_file_id)) is not None
    ended = await metadata.batches.get("alice", batch.id)
    assert ended is not None
    assert ended.input_file_id == batch.input_file_id
    assert ended.status is BatchStatus.FAILED


async def test_expired_files_are_found_unless_a_batch_reads_them(metadata: Metadata) -> None:
    await metadata.file(1, expires_at=3_000)
    await metadata.file(2, expires_at=2_000, tenant="bob")
    await metadata.file(3)
    await metadata.file(4, expires_at=4_000)
    reading = await metadata.batch()
    assert [file.id for file in await metadata.files.expired(1_999, 10)] == []
    assert [file.id for file in await metadata.files.expired(3_000, 10)] == ["file-bob-2", "file-alice-1"]
    assert [file.id for file in await metadata.files.expired(9_000, 1)] == ["file-bob-2"]
    held = reading.input_file_id
    await metadata.database.write(
        lambda c: c.exec_driver_sql("UPDATE files SET expires_at = 1500 WHERE id = ?", (held,))
    )
    assert held not in [file.id for file in await metadata.files.expired(9_000, 10)]
    await metadata.batches.fail(reading.id, errors=(), errors_total=0, at=1_001)
    assert held in [file.id for file in await metadata.files.expired(9_000, 10)]


async def test_a_batch_cannot_be_created_on_a_file_that_has_expired(metadata: Metadata) -> None:
    await metadata.file(10_000, tenant="carol", expires_at=1_000)
    await metadata.file(10_001, tenant="carol", expires_at=1_001)
    with pytest.raises(NotFound, match="file-carol-10000"):
        await metadata.batch_on("file-carol-10000", tenant="carol")
    await metadata.batch_on("file-carol-10001", tenant="carol")


async def test_blobs_without_a_row_are_told_apart_in_any_number(metadata: Metadata) -> None:
    await metadata.file(1)
    await metadata.file(2, tenant="bob")
    keys = [f"orphan-{number}" for number in range(2 * KEYS_ASKED_MAX)]
    keys[5:5] = ["alice-1"]
    keys.append("bob-2")
    assert await metadata.files.without_row(keys) == [key for key in keys if key.startswith("orphan")]
    assert await metadata.files.without_row([]) == []


async def test_a_page_of_nothing_is_refused(metadata: Metadata) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        await metadata.files.list("alice", after=None, limit=0)
