"""Engines die, refuse and abort: no line is lost, and only a line that was alone is blamed."""

from __future__ import annotations

import json
import random

from engine.backoff import BackoffPolicy
from engine.protocol import EngineOverloaded, EngineRequest, EngineResult, EngineState, EngineUnavailable
from engine.simulated.engine import SimulatedEngine
from engine.simulated.faults import SimulatedFaults
from engine.simulated.profiles import CPU_135M, simulated_model
from engine.supervisor import Supervised
from store import BatchStatus, markers
from tests.scheduler.world import TestEngine, World, chat, chats, echo, registry_of, running


async def test_a_death_with_all_in_flight_loses_nothing(world: World, engine: TestEngine) -> None:
    engine.hold()
    batch = await world.batch(chats(100))
    async with running(world.scheduler()):
        await world.until(batch, lambda _: engine.inflight == 32)
        engine.die()
        engine.let_go()
        ended = await world.ended(batch)
    output, errors = await world.results(ended)
    assert [line["custom_id"] for line in output] == [f"row-{no}" for no in range(100)]
    assert errors == []


async def test_innocent_lines_of_many_deaths_are_not_blamed(world: World, engine: TestEngine) -> None:
    chance = random.Random(5)
    answered: list[int] = []

    def die_now_and_then(name: str) -> None:
        if name == "request.answered" and chance.random() < 0.02 and len(answered) < 8:
            answered.append(1)
            engine.die()

    batch = await world.batch(chats(300))
    markers.install(die_now_and_then)
    try:
        async with running(world.scheduler()):
            ended = await world.ended(batch)
    finally:
        markers.install(None)
    assert (ended.counts.completed, ended.counts.failed) == (300, 0)


async def test_a_poisonous_line_is_blamed_and_the_rest_completes(world: World, engine: TestEngine) -> None:
    engine.poison = b'"question 17"'
    engine.answer_seconds = 0.01
    batch = await world.batch(chats(60))
    async with running(world.scheduler()):
        ended = await world.ended(batch)
    output, errors = await world.results(ended)
    assert [line["custom_id"] for line in errors] == ["row-17"]
    assert errors[0]["error"]["code"] == "engine_crashed"
    assert len(output) == 59
    assert engine.alone_deaths >= 2


async def test_poison_in_two_batches_of_one_engine_is_found_in_both(world: World, engine: TestEngine) -> None:
    engine.poison = b"poison"
    engine.answer_seconds = 0.01
    batches = [await world.batch([*chats(20), chat("bad", "poison"), chat("worse", "poison!")]) for _ in range(2)]
    async with running(world.scheduler()):
        ended = [await world.ended(batch) for batch in batches]
    for batch in ended:
        _, errors = await world.results(batch)
        assert [line["custom_id"] for line in errors] == ["bad", "worse"]
        assert batch.counts.completed == 20


async def test_lines_of_a_dead_engine_go_to_the_other(world: World) -> None:
    first, second = TestEngine("first"), TestEngine("second")
    world.registry = registry_of(first, second)
    first.hold()
    second.answer_seconds = 0.01
    batch = await world.batch(chats(80))
    async with running(world.scheduler()):
        await world.until(batch, lambda found: first.inflight > 0 and found.counts.completed > 0)
        await first.stop()
        ended = await world.ended(batch)
    assert (ended.status, ended.counts.completed) == (BatchStatus.COMPLETED, 80)
    assert not {echo_text(body) for body in first.asked} - {echo_text(body) for body in second.asked}


def echo_text(body: bytes) -> str:
    return str(json.loads(body)["messages"][0]["content"])


async def test_an_aborted_answer_goes_back_to_the_queue(world: World, engine: TestEngine) -> None:
    seen: set[bytes] = set()

    def abort_first(request: EngineRequest) -> EngineResult:
        if request.body not in seen:
            seen.add(request.body)
            raise EngineUnavailable("aborted")
        return echo(request)

    engine.respond = abort_first
    batch = await world.batch(chats(40))
    async with running(world.scheduler()):
        ended = await world.ended(batch)
    assert (ended.counts.completed, ended.counts.failed) == (40, 0)


async def test_an_overloaded_engine_is_asked_again_later(world: World, engine: TestEngine) -> None:
    refusals: list[int] = []

    def refuse_twenty(request: EngineRequest) -> EngineResult:
        if len(refusals) < 20:
            refusals.append(1)
            raise EngineOverloaded("full", retry_after_seconds=0.01)
        return echo(request)

    engine.respond = refuse_twenty
    batch = await world.batch(chats(40))
    async with running(world.scheduler()):
        ended = await world.ended(batch)
    assert (ended.counts.completed, ended.counts.failed) == (40, 0)


async def test_an_engine_that_raises_what_it_may_not_costs_only_its_line(world: World, engine: TestEngine) -> None:
    def broken(request: EngineRequest) -> EngineResult:
        if b"question 2" in request.body:
            raise KeyError("choices")
        return echo(request)

    engine.respond = broken
    batch = await world.batch(chats(5))
    async with running(world.scheduler()):
        ended = await world.ended(batch)
    _, errors = await world.results(ended)
    assert [(line["custom_id"], line["error"]["code"]) for line in errors] == [("row-2", "internal_error")]
    assert ended.counts.completed == 4


async def test_an_engine_that_is_gone_for_long_hands_its_suspects_to_another(world: World) -> None:
    first, second = TestEngine("first"), TestEngine("second")
    world.registry = registry_of(first, second)
    second.change(EngineState.DOWN)
    first.hold()
    batch = await world.batch(chats(8))
    async with running(world.scheduler(isolation_patience_seconds=0.01)):
        for _ in range(2):
            await world.until(batch, lambda _: first.inflight == 8)
            first.die()
        await world.until(batch, lambda _: first.inflight == 4)
        first.die()
        first.change(EngineState.DOWN, "crash loop")
        second.change(EngineState.READY)
        ended = await world.ended(batch)
    assert (ended.counts.completed, ended.counts.failed) == (8, 0)


async def test_a_supervised_engine_that_poison_kills_comes_back_and_the_rest_completes(world: World) -> None:
    simulated = SimulatedEngine(
        "sim", CPU_135M, models=[simulated_model("smol", CPU_135M)], faults=SimulatedFaults(poison="poison")
    )
    policy = BackoffPolicy(first_seconds=0.001, longest_seconds=0.01)
    engine = Supervised(simulated, policy, poll_seconds=0.01)
    world.registry = registry_of(engine)
    await engine.start()
    batch = await world.batch([*chats(30), chat("bad", "poison"), *[chat(f"more-{no}", f"m {no}") for no in range(30)]])
    async with running(world.scheduler()):
        ended = await world.ended(batch)
    await engine.stop()
    _, errors = await world.results(ended)
    assert [(line["custom_id"], line["error"]["code"]) for line in errors] == [("bad", "engine_crashed")]
    assert ended.counts.completed == 60
