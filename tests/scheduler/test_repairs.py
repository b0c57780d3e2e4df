"""Damage and mishaps stay with their batch; the reaper takes away what is left over."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from engine.protocol import EngineRequest, EngineResult
from scheduler.actors.finalizer import Finalizer
from scheduler.actors.inputs import Inputs
from scheduler.actors.jobs import Jobs
from scheduler.actors.reaper import Reaper
from scheduler.actors.waking import attempt
from store import BatchRecord, BatchStatus, Damaged, DiskFull, FileRecord, StoreError, markers
from tests.scheduler.world import SETTINGS, TestEngine, World, chats, echo, poll, running


async def test_a_damaged_input_fails_its_batch_by_name_and_no_other(world: World) -> None:
    bad, good = await world.batch(chats(5)), await world.batch(chats(5))
    file = await world.store.files.get("t", bad.input_file_id)
    assert file is not None
    _flip_a_byte(world.store.index_path(file.blob))
    async with running(world.scheduler()):
        bad, good = await world.ended(bad), await world.ended(good)
    assert bad.status is BatchStatus.FAILED
    assert [error.code for error in bad.errors] == ["damaged_file"]
    assert file.blob in bad.errors[0].message
    assert good.status is BatchStatus.COMPLETED


async def test_a_damaged_segment_fails_the_batch_but_whole_results_are_delivered(
    world: World, engine: TestEngine
) -> None:
    batch = await world.batch(chats(48))

    def damage_one(name: str) -> None:
        if name == "finalize.started":
            first = min(world.store.order_path(batch.id).parent.glob("0-*.segment"))
            _flip_a_byte(first)

    markers.install(damage_one)
    try:
        async with running(world.scheduler()):
            ended = await world.ended(batch)
    finally:
        markers.install(None)
    output, errors = await world.results(ended)
    assert ended.status is BatchStatus.FAILED
    assert [error.code for error in ended.errors] == ["damaged_file"]
    assert len(output) >= 32
    assert len(output) + len(errors) == 48
    assert {line["error"]["code"] for line in errors} == {"internal_error"}


def _flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


async def test_an_unexpected_end_is_tried_again_and_the_batch_completes(world: World) -> None:
    failures: list[str] = []

    def fail_twice(name: str) -> None:
        if name == "intake.ordered" and len(failures) < 2:
            failures.append(name)
            raise RuntimeError("a mishap")

    batch = await world.batch(chats(5))
    markers.install(fail_twice)
    try:
        async with running(world.scheduler()):
            ended = await world.ended(batch)
    finally:
        markers.install(None)
    assert (ended.status, len(failures)) == (BatchStatus.COMPLETED, 2)


async def test_a_batch_that_ends_unexpectedly_too_often_fails_and_says_internal_error(world: World) -> None:
    bad = await world.batch(chats(5))

    def always(name: str) -> None:
        if name == "intake.ordered":
            raise RuntimeError("a mishap")

    markers.install(always)
    try:
        async with running(world.scheduler()):
            ended = await world.ended(bad)
    finally:
        markers.install(None)
    assert (ended.status, [error.code for error in ended.errors]) == (BatchStatus.FAILED, ["internal_error"])


async def test_composing_that_never_works_still_ends_the_batch(world: World) -> None:
    batch = await world.batch(chats(5))

    def always(name: str) -> None:
        if name == "finalize.composed":
            raise RuntimeError("a mishap")

    markers.install(always)
    try:
        async with running(world.scheduler(job_attempts_max=2)):
            ended = await world.ended(batch)
    finally:
        markers.install(None)
    assert (ended.status, ended.output_file_id) == (BatchStatus.FAILED, None)


async def test_a_full_disk_never_uses_up_a_jobs_attempts(world: World) -> None:
    batch = await world.batch(chats(1))
    seen: list[str] = []
    done = asyncio.Event()

    async def hopeless(kind: str, batch: BatchRecord, error: Exception) -> None:
        seen.append(kind)

    async def disk_full(batch: BatchRecord, error: DiskFull) -> None:
        seen.append("full")

    jobs = Jobs(SETTINGS, monotonic=lambda: 0.0, on_hopeless=hopeless, on_disk_full=disk_full, on_end=done.set)

    async def full() -> None:
        raise DiskFull("no room")

    async def damaged() -> None:
        raise Damaged("segment x")

    for kind, work in [("a", full)] * 20 + [("b", damaged)]:
        jobs.start(kind, batch, work)
        await done.wait()
        done.clear()
    assert seen == ["full"] * 20 + ["b"]
    assert not jobs.may_start("a", batch.id)


async def test_expired_files_go_rows_first_but_not_while_a_batch_reads_them(world: World, engine: TestEngine) -> None:
    idle = await world.upload(chats(1), expires_at=5)
    engine.hold()
    batch = await world.batch(chats(3), expires_at=2**33)
    async with running(world.scheduler()):
        await world.until(batch, lambda _: engine.inflight == 3)
        await poll(lambda: _is_gone(world, idle))
    assert await world.store.files.get("t", batch.input_file_id) is not None


async def _is_gone(world: World, file: FileRecord) -> bool:
    return await world.store.files.get("t", file.id) is None and not world.store.blobs.path(file.blob).exists()


async def test_bytes_without_a_row_are_reaped_after_an_hour_and_folders_at_once(world: World) -> None:
    batch = await world.batch(chats(1))
    file = await world.store.files.get("t", batch.input_file_id)
    assert file is not None
    keys = []
    for _ in range(2):
        writer = world.store.blobs.open_writer()
        writer.write(b"left over")
        keys.append(writer.commit().key)
    old = time.time() - 2 * SETTINGS.orphan_seconds
    for key in (keys[0], file.blob):
        os.utime(world.store.blobs.path(key), (old, old))
    os.utime(world.store.index_path(file.blob), (old, old))
    for name in (batch.id, "batch_gone"):
        world.store.order_path(name).parent.mkdir(parents=True)
    await Reaper(world.store, SETTINGS, now=time.time).reap()
    assert [world.store.blobs.path(key).exists() for key in (*keys, file.blob)] == [False, True, True]
    assert [world.store.order_path(name).parent.exists() for name in (batch.id, "batch_gone")] == [True, False]


@pytest.mark.parametrize("harm", ["gone", "cut off", "not what was indexed"])
async def test_results_made_before_the_input_was_damaged_are_delivered(
    world: World, engine: TestEngine, harm: str
) -> None:
    batch = await world.batch(chats(48))
    answered = 0

    def hold_after_20(request: EngineRequest) -> EngineResult:
        nonlocal answered
        answered += 1
        if answered == 20:
            engine.hold()
        return echo(request)

    engine.respond = hold_after_20
    async with running(world.scheduler()):
        await world.until(batch, lambda found: found.counts.completed == 20)
    engine.let_go()
    file = await world.store.files.get("t", batch.input_file_id)
    assert file is not None
    blob = world.store.blobs.path(file.blob)
    match harm:
        case "gone":
            blob.unlink()
        case "cut off":
            os.truncate(blob, file.bytes - 10)
        case _:
            blob.write_bytes(b"#" * file.bytes)
    async with running(world.scheduler()):
        ended = await world.ended(batch)
    output, errors = await world.results(ended)
    assert ended.status is BatchStatus.FAILED
    assert [error.code for error in ended.errors] == ["damaged_file"]
    assert (len(output), len(errors)) == (20, 28)
    assert (ended.counts.completed, ended.counts.failed) == (20, 28)


async def test_ending_a_batch_that_has_ended_meanwhile_is_no_damage(world: World) -> None:
    """A tick looks at the batches first and starts their jobs later: by then one may have ended."""
    batch = await world.batch(chats(5))
    async with running(world.scheduler()):
        ended = await world.ended(batch)
    seen = replace(ended, status=BatchStatus.FINALIZING)
    finalizer = Finalizer(world.store, SETTINGS, Inputs(world.store), now=time.time)
    await finalizer.end(seen)
    await finalizer.fail(seen, Damaged("made up"))
    assert await world.get(batch) == ended


async def test_what_the_store_refuses_again_and_again_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    refusal = None
    for cause in ("the disk is full", "the disk is full", "the file is locked"):

        async def refused(cause: str = cause) -> None:
            raise StoreError(cause)

        refusal = await attempt(refused, refusal)
    assert [record.message.partition(" waits ")[2] for record in caplog.records] == [
        "for the store: the disk is full",
        "for the store: the file is locked",
    ]
    assert all(record.exc_info is None for record in caplog.records)
