from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from store import markers
from store.blobs import Blobs, StoredBlob
from store.disk import Disk
from store.index import LineIndex
from store.records import DiskFull, StoreError, TooLarge
from store.settings import MIB, StoreSettings
from store.uploads import SYNC_BYTES, WRITE_BYTES, Uploads

SECRET = b"s" * 32
ENDED_SECONDS = 10
ROOM = StoreSettings(disk_reserve_bytes=0, upload_bytes_max=64 * MIB, line_bytes_max=4096, line_errors_shown_max=5)

Open = Callable[..., Uploads]


def request(number: int) -> bytes:
    body = {"model": "m", "messages": [{"role": "user", "content": f"{number} " * 40}]}
    line = {"custom_id": f"row-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(line).encode() + b"\n"


def requests(count: int, start: int = 0) -> bytes:
    return b"".join(map(request, range(start, start + count)))


@pytest.fixture
async def open_uploads(tmp_path: Path) -> AsyncIterator[Open]:
    opened: list[Uploads] = []

    def open_them(settings: StoreSettings = ROOM) -> Uploads:
        opened.append(Uploads(tmp_path, Blobs(tmp_path), Disk(tmp_path, settings), settings, SECRET))
        return opened[-1]

    yield open_them
    for uploads in opened:
        await uploads.close()


async def upload(uploads: Uploads, data: bytes, *, indexed: bool = True, step: int = 70_000) -> StoredBlob:
    begun = await uploads.begin(indexed=indexed)
    for at in range(0, len(data), step):
        await begun.write(data[at : at + step])
    return await begun.finish()


def left_behind(folder: Path) -> list[Path]:
    return [path for path in [*folder.glob("tmp/*"), *folder.glob("blobs/*/*")] if path.is_file()]


async def until(true: Callable[[], bool]) -> None:
    """Wait for what another process does."""
    async with asyncio.timeout(ENDED_SECONDS):
        while not true():  # noqa: ASYNC110 (nothing of ours would set an event)
            await asyncio.sleep(0.005)


async def gone(pid: int) -> None:
    """Wait until there is no such process; the descriptor of one that ended becomes readable."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(descriptor, ended.set)
    try:
        await asyncio.wait_for(ended.wait(), ENDED_SECONDS)
    finally:
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)


async def test_an_upload_becomes_a_blob_with_an_index(tmp_path: Path, open_uploads: Open) -> None:
    data = requests(9000) + b"broken\n" + request(5)
    blob = await upload(open_uploads(), data)
    assert len(data) > 2 * WRITE_BYTES
    assert blob.bytes == len(data)
    assert blob.summary is not None
    assert (blob.summary.lines, blob.summary.error_lines, blob.summary.models) == (9002, 2, ("m",))
    assert [(error.code, error.line) for error in blob.summary.errors] == [
        ("invalid_json_line", 9001),
        ("duplicate_custom_id", 9002),
    ]
    blobs = Blobs(tmp_path)
    assert blobs.path(blob.key).read_bytes() == data
    index = LineIndex.open(blobs.index_path(blob.key))
    assert index.read_lines(index.blob_path, [8999, 0]) == [request(8999).strip(), request(0).strip()]
    assert list((tmp_path / "tmp").iterdir()) == []


async def test_an_empty_upload_has_no_lines(open_uploads: Open) -> None:
    blob = await upload(open_uploads(), b"")
    assert blob.bytes == 0
    assert blob.summary is not None
    assert blob.summary.lines == 0


async def test_a_file_that_is_no_batch_input_is_kept_without_an_index(tmp_path: Path, open_uploads: Open) -> None:
    uploads = open_uploads()
    blob = await upload(uploads, b"any bytes", indexed=False)
    assert blob.summary is None
    assert [path.name for path in left_behind(tmp_path)] == [blob.key]
    assert uploads.worker_pids() == []


async def test_the_first_upload_finds_its_worker_there(open_uploads: Open) -> None:
    uploads = open_uploads()
    await uploads.prepare()
    (pid,) = uploads.worker_pids()
    blob = await upload(uploads, requests(3))
    assert blob.summary is not None
    assert blob.summary.lines == 3
    assert uploads.worker_pids() == [pid]


async def test_indexing_overlaps_the_upload(tmp_path: Path, open_uploads: Open) -> None:
    begun = await open_uploads().begin(indexed=True)
    index_path = tmp_path / "tmp" / f"{begun.key}.index"
    for start in range(0, 30_000, 5_000):
        await begun.write(requests(5_000, start))
    await until(lambda: index_path.exists() and index_path.stat().st_size > 0)
    await begun.abort()


async def test_slow_uploads_share_the_workers_and_hold_up_nobody(open_uploads: Open) -> None:
    uploads = open_uploads()
    slow = [await uploads.begin(indexed=True) for _ in range(5)]
    for begun in slow:
        await begun.write(requests(3000))
    quick = await upload(uploads, requests(10))
    assert quick.summary is not None
    assert quick.summary.lines == 10
    assert len(uploads.worker_pids()) == ROOM.index_workers_max
    finished = await asyncio.gather(*(begun.finish() for begun in slow))
    assert [blob.summary.lines for blob in finished if blob.summary is not None] == [3000] * 5


async def test_a_large_upload_is_synced_on_the_way_and_whole_at_its_end(tmp_path: Path, open_uploads: Open) -> None:
    data = requests(100_000)[: 2 * SYNC_BYTES + 12_345]
    begun = await open_uploads().begin(indexed=True)
    syncs = 0
    for at in range(0, len(data), WRITE_BYTES):
        await begun.write(data[at : at + WRITE_BYTES])
        syncs += begun._syncing is not None
    stored = await begun.finish()
    assert syncs > 0
    assert Blobs(tmp_path).path(stored.key).read_bytes() == data


async def test_an_upload_that_is_given_up_while_it_is_synced_leaves_nothing(tmp_path: Path, open_uploads: Open) -> None:
    begun = await open_uploads().begin(indexed=False)
    while begun._syncing is None:
        await begun.write(b"x" * WRITE_BYTES)
    await begun.abort()
    assert left_behind(tmp_path) == []


async def test_an_aborted_upload_leaves_nothing(tmp_path: Path, open_uploads: Open) -> None:
    begun = await open_uploads().begin(indexed=True)
    await begun.write(requests(6000))
    await begun.abort()
    await begun.abort()
    assert left_behind(tmp_path) == []
    with pytest.raises(StoreError, match="given up"):
        await begun.write(b"x" * WRITE_BYTES)


async def test_abort_after_finish_keeps_the_blob(tmp_path: Path, open_uploads: Open) -> None:
    begun = await open_uploads().begin(indexed=True)
    await begun.write(request(1))
    await begun.finish()
    await begun.abort()
    assert len(left_behind(tmp_path)) == 2


async def test_an_upload_above_the_limit_is_refused_and_leaves_nothing(tmp_path: Path, open_uploads: Open) -> None:
    begun = await open_uploads(StoreSettings(disk_reserve_bytes=0, upload_bytes_max=100)).begin(indexed=True)
    await begun.write(b"x" * 100)
    with pytest.raises(TooLarge, match="100 bytes"):
        await begun.write(b"x")
    await begun.abort()
    assert left_behind(tmp_path) == []


async def test_no_upload_begins_below_the_disk_reserve(tmp_path: Path, open_uploads: Open) -> None:
    with pytest.raises(DiskFull):
        await open_uploads(StoreSettings(disk_reserve_bytes=1 << 60)).begin(indexed=True)
    assert left_behind(tmp_path) == []


async def test_an_upload_that_finds_the_disk_full_leaves_nothing(tmp_path: Path) -> None:
    """The disk fills up between two writes."""
    free = [10 * MIB, 10 * MIB, 0]
    settings = StoreSettings(disk_reserve_bytes=0)
    disk = Disk(tmp_path, settings, free_bytes_of=lambda _: free.pop(0) if len(free) > 1 else free[0])
    uploads = Uploads(tmp_path, Blobs(tmp_path), disk, settings, SECRET)
    begun = await uploads.begin(indexed=True)
    await begun.write(b"\n" * WRITE_BYTES)
    with pytest.raises(DiskFull):
        await begun.write(b"\n" * WRITE_BYTES)
    await begun.abort()
    await uploads.close()
    assert left_behind(tmp_path) == []


async def test_finish_passes_its_markers(tmp_path: Path, open_uploads: Open) -> None:
    reached: list[tuple[str, int]] = []
    begun = await open_uploads().begin(indexed=True)
    await begun.write(request(1))
    markers.install(lambda name: reached.append((name, len(list(tmp_path.glob("blobs/*/*"))))))
    try:
        await begun.finish()
    finally:
        markers.install(None)
    assert reached == [("upload.received", 0), ("upload.indexed", 2)]


async def test_a_worker_that_dies_mid_upload_costs_only_indexing_again(open_uploads: Open) -> None:
    uploads = open_uploads()
    begun = await uploads.begin(indexed=True)
    await begun.write(requests(6000))
    (pid,) = uploads.worker_pids()
    os.kill(pid, signal.SIGKILL)
    await gone(pid)
    await begun.write(requests(10, start=6000))
    blob = await begun.finish()
    assert blob.summary is not None
    assert (blob.summary.lines, blob.summary.error_lines) == (6010, 0)
    assert uploads.worker_pids() != [pid]


async def test_a_worker_that_dies_twice_is_a_clear_error_and_leaves_nothing(tmp_path: Path, open_uploads: Open) -> None:
    uploads = open_uploads()
    begun = await uploads.begin(indexed=True)
    await begun.write(requests(6000))
    stopped = set(uploads.worker_pids())
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    finishing = asyncio.create_task(begun.finish())
    for pid in stopped:
        os.kill(pid, signal.SIGKILL)
    await until(lambda: bool(set(uploads.worker_pids()) - stopped))
    for pid in set(uploads.worker_pids()) - stopped:
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(StoreError, match=r"twice.*killed by signal 9.*Send it again"):
        await finishing
    assert left_behind(tmp_path) == []


async def test_an_upload_that_cannot_be_indexed_says_why_and_hurts_no_other(tmp_path: Path, open_uploads: Open) -> None:
    uploads = open_uploads(replace(ROOM, index_workers_max=1))
    other = await uploads.begin(indexed=True)
    (pid,) = uploads.worker_pids()
    os.kill(pid, signal.SIGSTOP)
    lost = await uploads.begin(indexed=True)
    (tmp_path / "tmp" / lost.key).unlink()
    os.kill(pid, signal.SIGCONT)
    with pytest.raises(StoreError, match="could not be indexed: FileNotFoundError"):
        await lost.finish()
    await other.write(request(1))
    assert (await other.finish()).summary is not None


@pytest.mark.parametrize("depth", [600, 100_000])
async def test_a_line_nested_too_deeply_is_refused_and_never_met_again(
    tmp_path: Path, open_uploads: Open, depth: int
) -> None:
    """600 is what the server could read and the worker, with less room on purpose, could not (before Python 3.12)."""
    nested = b'{"custom_id": "a", "method": "POST", "url": "/", "body": {"model": "m", "input": "", "x": %s}}'
    settings = replace(ROOM, line_bytes_max=MIB)
    blob = await upload(open_uploads(settings), nested % (b"[" * depth + b"]" * depth) + b"\n" + request(1))
    assert blob.summary is not None
    codes = [error.code for error in blob.summary.errors]
    assert codes == ["invalid_json_line"] or (depth == 600 and codes == [])
    index = LineIndex.open(Blobs(tmp_path).index_path(blob.key))
    assert [error.code for error in index.iter_errors()] == codes
    assert all(error.message == "This line is nested too deeply to be parsed." for error in blob.summary.errors)


async def test_closing_ends_the_workers(open_uploads: Open) -> None:
    uploads = open_uploads()
    await upload(uploads, request(1))
    (pid,) = uploads.worker_pids()
    await uploads.close()
    assert uploads.worker_pids() == []
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


SERVER = """
import asyncio, os, subprocess, sys
from pathlib import Path
from store.blobs import Blobs
from store.disk import Disk
from store.settings import StoreSettings
from store.uploads import Uploads

async def main():
    folder, settings = Path(sys.argv[1]), StoreSettings(disk_reserve_bytes=0)
    uploads = Uploads(folder, Blobs(folder), Disk(folder, settings), settings, b"s" * 32)
    await (await uploads.begin(indexed=True)).finish()
    begun = await uploads.begin(indexed=True)
    await begun.write(b"x" * 2_000_000)
    if sys.argv[2] == "with_heir":
        # Another child that keeps all that the server had open: the worker's stdin does not end with the server.
        for name in os.listdir("/proc/self/fd"):
            if os.path.exists(f"/proc/self/fd/{name}"):
                os.set_inheritable(int(name), True)
        heir = subprocess.Popen(["sleep", "60"], close_fds=False, stdout=subprocess.DEVNULL)
        print(*uploads.worker_pids(), heir.pid, flush=True)
    else:
        print(*uploads.worker_pids(), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def start_server(folder: Path, how: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", SERVER, str(folder), how], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("how", ["alone", "with_heir"])
async def test_after_a_kill_of_the_server_the_index_worker_ends(tmp_path: Path, how: str) -> None:
    server = await asyncio.to_thread(start_server, tmp_path, how)
    assert server.stdout is not None
    worker, *heirs = map(int, (await asyncio.to_thread(server.stdout.readline)).split())
    os.kill(worker, 0)
    server.kill()
    try:
        await gone(worker)
    finally:
        server.wait()
        server.stdout.close()
        for heir in heirs:
            os.kill(heir, signal.SIGKILL)
