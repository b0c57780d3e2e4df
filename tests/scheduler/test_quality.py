"""The quality of a batch's results is exact, also where kills, cancellations and broken lines came between."""

from __future__ import annotations

import asyncio
from typing import Any

from store import BatchStatus
from store.quality import Quality, summary_of
from store.records import OnInvalidLine
from tests.scheduler.world import TestEngine, World, chat, chats, running


async def test_a_completed_batch_has_the_quality_of_every_line(world: World) -> None:
    batch = await world.batch(chats(50))
    async with running(world.scheduler()):
        ended = await world.ended(batch)
    assert ended.status is BatchStatus.COMPLETED
    summary = summary_of(ended.quality)
    assert summary is not None
    assert summary["lines"] == 50
    assert sum(summary["finish_reasons"].values()) == 50


async def test_quality_shows_while_the_batch_runs_and_is_exact_after_another_takes_over(
    world: World, engine: TestEngine
) -> None:
    batch = await world.batch(chats(64))
    async with running(world.scheduler()):
        await world.until(batch, lambda found: found.quality is not None)
        engine.hold()
        await asyncio.sleep(0)
    engine.let_go()
    async with running(world.scheduler(holder="two")):
        ended = await world.ended(batch)
    quality = Quality.decode(ended.quality)
    assert (ended.status, quality.lines) == (BatchStatus.COMPLETED, 64)
    assert sum(quality.finish_reasons.values()) == 64


async def test_a_cancelled_batch_counts_the_lines_without_an_answer_too(world: World, engine: TestEngine) -> None:
    engine.hold()
    batch = await world.batch(chats(40))
    async with running(world.scheduler()):
        await world.until(batch, lambda _: engine.inflight == 32)
        await world.cancel(batch)
        ended = await world.ended(batch)
    quality = Quality.decode(ended.quality)
    assert (quality.lines, quality.conditions) == (40, {"cancelled": 40})
    (group,) = quality.groups.values()
    assert (group.code, group.count, group.lines) == ("batch_cancelled", 40, [1, 2, 3])
    assert group.custom_ids == ["row-0", "row-1", "row-2"]


async def test_lines_that_validation_refused_are_a_group_of_errors(world: World) -> None:
    lines: list[dict[str, Any] | bytes] = [*chats(20), b"not json", chat("row-0")]
    batch = await world.batch(lines, on_invalid_line=OnInvalidLine.REPORT)
    async with running(world.scheduler()):
        ended = await world.ended(batch)
    summary = summary_of(ended.quality)
    assert summary is not None
    assert (summary["lines"], summary["failed"]) == (22, {"error": 2})
    assert {group["code"] for group in summary["error_groups"]} == {"invalid_json_line", "duplicate_custom_id"}
