"""Cancelled, expired, late: what has a result is delivered, every other line says why it has none."""

from __future__ import annotations

import time

import pytest

from store import BatchStatus, OnDeadline, markers
from tests.scheduler.world import TestEngine, World, chats, running


async def test_cancel_while_validating_ends_without_files(world: World) -> None:
    batch = await world.batch(chats(4))
    assert await world.cancel(batch)
    async with running(world.scheduler()):
        ended = await world.ended(batch)
    assert (ended.status, ended.counts.total) == (BatchStatus.CANCELLED, 0)
    assert (ended.output_file_id, ended.error_file_id) == (None, None)


async def test_cancel_in_progress_delivers_what_is_done_and_an_error_for_the_rest(
    world: World, engine: TestEngine
) -> None:
    batch = await world.batch(chats(64))
    scheduler = world.scheduler()
    async with running(scheduler):
        await world.until(batch, lambda found: found.counts.completed >= 16 or (bool(engine.asked) and _hold(engine)))
        await world.cancel(batch)
        scheduler.wake()
        ended = await world.ended(batch)
    assert ended.status is BatchStatus.CANCELLED
    output, errors = await world.results(ended)
    assert sorted([line["custom_id"] for line in output + errors]) == sorted(f"row-{no}" for no in range(64))
    assert {line["error"]["code"] for line in errors} <= {"batch_cancelled"}
    assert (ended.counts.completed, ended.counts.failed) == (len(output), len(errors))
    assert engine.inflight == 0


def _hold(engine: TestEngine) -> bool:
    engine.hold()
    return False


async def test_cancel_with_everything_in_flight_waits_for_no_engine(world: World, engine: TestEngine) -> None:
    engine.hold()
    batch = await world.batch(chats(40))
    async with running(world.scheduler()):
        await world.until(batch, lambda _: engine.inflight == 32)
        await world.cancel(batch)
        ended = await world.ended(batch)
        assert engine.inflight == 0
    _, errors = await world.results(ended)
    assert [line["custom_id"] for line in errors] == [f"row-{no}" for no in range(40)]
    assert errors[0]["error"]["code"] == "batch_cancelled"


async def test_cancel_while_finalizing_keeps_every_result(world: World) -> None:
    batch = await world.batch(chats(20))
    tasks: list[object] = []
    first = world.scheduler()

    def stop_there(name: str) -> None:
        if name == "finalize.started":
            raise RuntimeError("stop here")

    markers.install(stop_there)
    try:
        async with running(first):
            await world.until(batch, lambda found: found.status is BatchStatus.FINALIZING)
    finally:
        markers.install(None)
    assert await world.cancel(batch)
    async with running(world.scheduler(holder="two")):
        ended = await world.ended(batch)
    output, errors = await world.results(ended)
    assert (ended.status, len(output), errors, tasks) == (BatchStatus.CANCELLED, 20, [], [])


async def test_cancel_of_a_paused_batch_ends_it(world: World, engine: TestEngine) -> None:
    await engine.stop()
    batch = await world.batch(chats(4))
    async with running(world.scheduler()):
        await world.until(batch, lambda found: found.paused_at is not None)
        await world.cancel(batch)
        ended = await world.ended(batch)
    assert (ended.status, ended.counts.failed) == (BatchStatus.CANCELLED, 4)


@pytest.mark.parametrize("started", [True, False])
async def test_a_batch_expires_with_what_it_has(world: World, engine: TestEngine, started: bool) -> None:
    engine.hold()
    if not started:
        await engine.stop()
    batch = await world.batch(chats(20), expires_at=int(time.time()) + 1)
    async with running(world.scheduler()):
        ended = await world.ended(batch)
    _, errors = await world.results(ended)
    assert ended.status is BatchStatus.EXPIRED
    assert ended.finalizing_at is not None
    assert len(errors) == 20
    assert errors[0]["error"] == {
        "code": "batch_expired",
        "message": "This request could not be executed before the completion window expired.",
    }


async def test_finished_lines_of_an_expired_batch_stay_in_the_output(world: World, engine: TestEngine) -> None:
    batch = await world.batch(chats(48), expires_at=int(time.time()) + 2)
    answered: list[int] = []

    def stop_after_sixteen(name: str) -> None:
        if name == "request.answered":
            answered.append(1)
            if len(answered) == 16:
                engine.hold()

    markers.install(stop_after_sixteen)
    try:
        async with running(world.scheduler()):
            ended = await world.ended(batch)
    finally:
        markers.install(None)
    output, errors = await world.results(ended)
    assert ended.status is BatchStatus.EXPIRED
    assert len(output) >= 16
    assert len(output) + len(errors) == 48


async def test_a_batch_that_may_be_late_goes_on_and_the_miss_is_noted(world: World, engine: TestEngine) -> None:
    engine.hold()
    batch = await world.batch(chats(8), expires_at=int(time.time()), on_deadline=OnDeadline.CONTINUE)
    async with running(world.scheduler()):
        await world.until(batch, lambda found: found.deadline_missed_at is not None)
        engine.let_go()
        ended = await world.ended(batch)
    assert (ended.status, ended.counts.completed) == (BatchStatus.COMPLETED, 8)
    assert ended.deadline_missed_at is not None
