"""Batches whose prompts begin alike, on a real scheduler: what runs together, and how much of it at once."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import groupby
from typing import Any

import pytest

from engine.simulated.engine import SimulatedEngine
from engine.simulated.profiles import CPU_135M, simulated_model
from scheduler import Scheduler
from scheduler.policy.order import Packing
from store import BatchStatus
from tests.scheduler.world import TestEngine, World, chat, poll, registry_of, running

FEW_SHOT = ["Sort the words. ", "Add the numbers. ", "Name the town. "]


def questions(count: int, *, name: str = "row") -> list[dict[str, Any]]:
    """The prompts take turns."""
    return [chat(f"{name}-{no}", FEW_SHOT[no % 3] * 200 + f"{name} {no}") for no in range(count)]


def order_of(engine: TestEngine) -> list[str]:
    """What the engine was asked, by the sentence that each prompt begins with."""
    texts = [json.loads(body)["messages"][0]["content"] for body in engine.asked]
    return [text[: text.index(".") + 2] for text in texts]


def runs_of(engine: TestEngine) -> list[str]:
    return [start for start, _ in groupby(order_of(engine))]


async def test_lines_that_begin_alike_run_one_after_the_other(world: World, engine: TestEngine) -> None:
    batch = await world.batch(questions(60))
    async with running(world.scheduler(shard_lines_max=512)):
        ended = await world.ended(batch)
    assert sorted(runs_of(engine)) == sorted(FEW_SHOT)
    output, _ = await world.results(ended)
    assert [line["custom_id"] for line in output] == [f"row-{no}" for no in range(60)]


async def test_without_packing_lines_run_as_the_file_has_them(world: World, engine: TestEngine) -> None:
    batch = await world.batch(questions(12))
    async with running(world.scheduler(packing=Packing.FILE)):
        await world.ended(batch)
    assert order_of(engine) == FEW_SHOT * 4


async def test_the_same_prompts_of_several_batches_run_together(world: World) -> None:
    engine = TestEngine(inflight_requests_max=1)
    world.registry = registry_of(engine)
    engine.hold()
    batches = [await world.batch(questions(9, name=f"b{no}")) for no in range(4)]
    scheduler = world.scheduler()
    async with running(scheduler):
        await poll(lambda: _all_wait(scheduler, lines=4 * 9 - 1))
        engine.let_go()
        ended = [await world.ended(batch) for batch in batches]
    assert [batch.status for batch in ended] == [BatchStatus.COMPLETED] * 4
    assert [batch.counts.completed for batch in ended] == [9] * 4
    assert len(engine.asked) == 36
    assert len(runs_of(engine)) == 3


async def _all_wait(scheduler: Scheduler, *, lines: int) -> bool:
    """In shards that are open: those that are being leased count as held, too."""
    waiting = sum(len(shard.waiting) for shard in scheduler._leases.held.values())
    return waiting == lines and scheduler._keeper.inflight().total() == 1


@pytest.mark.parametrize(("packing", "expected"), [(Packing.PREFIX, 16), (Packing.FILE, 1)])
async def test_a_shared_prompt_takes_its_room_in_the_cache_once(world: World, packing: Packing, expected: int) -> None:
    engine = TestEngine(inflight_requests_max=16, inflight_tokens_max=2_000)
    world.registry = registry_of(engine)
    engine.answer_seconds = 0.01
    batch = await world.batch([chat(f"row-{no}", "Sort the words. " * 200 + str(no)) for no in range(32)])
    async with running(world.scheduler(packing=packing, shard_lines_max=512, predict_lengths=False)):
        await world.ended(batch)
    assert engine.inflight_max == expected


SMALL_CACHE = replace(CPU_135M, running_max=8, kv_tokens_max=4_096, context_tokens_max=2_048)


@pytest.mark.parametrize(("packing", "at_least", "at_most"), [(Packing.PREFIX, 0.8, 1.0), (Packing.FILE, 0.0, 0.6)])
async def test_a_cache_that_holds_few_of_the_prompts_still_has_each_when_it_is_asked_for(
    world: World, packing: Packing, at_least: float, at_most: float
) -> None:
    engine = SimulatedEngine(
        "sim", SMALL_CACHE, models=[simulated_model("smol", SMALL_CACHE)], report_cached_tokens=True
    )
    world.registry = registry_of(engine)
    await engine.start()
    prompts = [f"Example {no}: " + f"word{no} " * 500 for no in range(10)]
    batch = await world.batch([chat(f"row-{no}", prompts[no * 3 % 10] + f"question {no}") for no in range(80)])
    async with running(world.scheduler(packing=packing, shard_lines_max=512, predict_lengths=False)):
        ended = await world.ended(batch)
    await engine.stop()
    assert at_least <= ended.usage.cached_tokens / ended.usage.input_tokens <= at_most
