"""Lines that ask the same: answered once, and every line has its own result, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from engine.protocol import (
    EMBEDDINGS,
    EngineOverloaded,
    EngineRequest,
    EngineResult,
    EngineUnavailable,
    ModelInfo,
    ModelKind,
    Usage,
)
from scheduler import Scheduler
from store import BatchRecord, BatchStatus, StoreSettings, TokenUsage, open_store
from store.kept import FILE_NAME, SERVER_FOLDER
from store.quality import Quality
from store.records import RequestCounts, Reuse
from tests.scheduler.world import SETTINGS, TestEngine, World, chat, echo, poll, registry_of, running


def greedy(count: int, questions: int, **body: Any) -> list[dict[str, Any]]:
    return [chat(f"row-{no}", f"question {no % questions}", temperature=0, **body) for no in range(count)]


def answers_of(lines: list[dict[str, Any]]) -> dict[str, str]:
    return {line["custom_id"]: line["response"]["body"]["choices"][0]["message"]["content"] for line in lines}


def expected(count: int, questions: int) -> dict[str, str]:
    return {f"row-{no}": f"QUESTION {no % questions}" for no in range(count)}


def reused(lines: list[dict[str, Any]]) -> int:
    return sum(line.get("reused", False) for line in lines)


def patient(world: World, **changed: Any) -> Scheduler:
    """No lease of its runs out on a busy machine: what is asked twice would not tell why."""
    return world.scheduler(**{"lease_seconds": 120.0, **changed})


async def run(world: World, lines: list[dict[str, Any]], reuse: Reuse, **more: Any) -> BatchRecord:
    batch = await world.batch(lines, reuse=reuse, **more)
    async with running(patient(world)):
        return await world.ended(batch)


@pytest.mark.parametrize("reuse", [Reuse.BATCH, Reuse.SERVER])
async def test_identical_lines_run_once_and_each_has_its_result(world: World, engine: TestEngine, reuse: Reuse) -> None:
    ended = await run(world, greedy(100, 10), reuse)
    output, errors = await world.results(ended)
    assert (ended.status, errors) == (BatchStatus.COMPLETED, [])
    assert [line["custom_id"] for line in output] == [f"row-{no}" for no in range(100)]
    assert answers_of(output) == expected(100, 10)
    assert len({line["id"] for line in output}) == 100
    assert len(engine.asked) == 10
    assert ended.counts == RequestCounts(100, 100, 0, reused=90)
    assert reused(output) == 90
    assert ended.usage == TokenUsage(30, 10, 20)
    assert Quality.decode(ended.quality).lines == 100


async def test_a_batch_that_does_not_ask_for_it_runs_every_line(world: World, engine: TestEngine) -> None:
    ended = await run(world, greedy(40, 4), Reuse.OFF)
    output, _ = await world.results(ended)
    assert len(engine.asked) == 40
    assert (ended.counts.reused, reused(output)) == (0, 0)
    assert not (world.store.folder / SERVER_FOLDER).exists()


async def test_lines_that_may_be_answered_anew_each_time_run_each_time(world: World, engine: TestEngine) -> None:
    lines = [chat(f"row-{no}", "same") for no in range(8)] + [
        chat(f"cold-{no}", "same", temperature=0) for no in range(8)
    ]
    ended = await run(world, lines, Reuse.SERVER)
    assert len(engine.asked) == 9
    assert ended.counts == RequestCounts(16, 16, 0, reused=7)


async def test_the_file_of_last_night_costs_only_what_is_new(world: World, engine: TestEngine) -> None:
    first = await run(world, greedy(50, 50), Reuse.SERVER)
    assert first.counts.reused == 0
    engine.asked.clear()
    second = await run(world, greedy(51, 51), Reuse.SERVER)
    output, _ = await world.results(second)
    assert [json.loads(body)["messages"][0]["content"] for body in engine.asked] == ["question 50"]
    assert answers_of(output) == expected(51, 51)
    assert second.counts == RequestCounts(51, 51, 0, reused=50)
    assert second.usage == TokenUsage(3, 1, 2)


async def test_answers_outlive_the_server(tmp_path: Path) -> None:
    engine = TestEngine()
    counts = []
    for _ in range(2):
        settings = StoreSettings(disk_reserve_bytes=1024, index_workers_max=1)
        async with await open_store(tmp_path / "data", settings=settings) as store:
            world = World(store, registry_of(engine), SETTINGS)
            world.count_from(len(counts))
            counts.append((await run(world, greedy(20, 20), Reuse.SERVER)).counts.reused)
    assert counts == [0, 20]
    assert len(engine.asked) == 20


async def test_a_batch_that_shares_with_itself_gives_nothing_and_gets_nothing(world: World, engine: TestEngine) -> None:
    await run(world, greedy(6, 3), Reuse.SERVER)
    work = world.store.folder / "work"
    for _ in range(2):
        batch = await world.batch(greedy(6, 3), reuse=Reuse.BATCH)
        async with running(patient(world)):
            await world.ended(batch)
            await poll(lambda: _true_when(not list(work.iterdir())))
    assert len(engine.asked) == 9


async def test_what_an_error_answers_is_given_to_nobody_else(world: World, engine: TestEngine) -> None:
    def refuse(request: EngineRequest) -> EngineResult:
        return (
            EngineResult(400, b'{"error":{"message":"no","code":"bad"}}')
            if b"question 1" in request.body
            else (echo(request))
        )

    engine.respond = refuse
    for _ in range(2):
        engine.asked.clear()
        ended = await run(world, greedy(40, 2), Reuse.SERVER)
        assert ended.counts.failed == 20
        output, errors = await world.results(ended)
        assert (len(output), len(errors), reused(errors)) == (20, 20, 0)
        assert sum(b"question 1" in body for body in engine.asked) == 20


async def test_lines_that_wait_for_an_answer_take_no_room_from_others(world: World, engine: TestEngine) -> None:
    engine.hold()
    batch = await world.batch(greedy(60, 20), reuse=Reuse.BATCH)
    async with running(patient(world, shard_lines_max=60)):
        await poll(lambda: _true_when(engine.inflight == 20))
        engine.let_go()
        ended = await world.ended(batch)
    assert (engine.inflight_max, ended.counts.reused) == (20, 40)


async def _true_when(condition: bool) -> bool:
    return condition


async def test_twins_of_a_line_whose_engine_dies_are_all_answered(world: World, engine: TestEngine) -> None:
    engine.hold()
    batch = await world.batch(greedy(30, 3), reuse=Reuse.BATCH)
    async with running(patient(world)):
        await poll(lambda: _true_when(engine.inflight == 3))
        engine.die()
        engine.let_go()
        ended = await world.ended(batch)
    output, _ = await world.results(ended)
    assert answers_of(output) == expected(30, 3)
    assert ended.counts == RequestCounts(30, 30, 0, reused=27)


async def test_a_line_that_kills_engines_is_blamed_alone_and_so_is_each_of_its_twins(
    world: World, engine: TestEngine
) -> None:
    engine.poison, engine.answer_seconds = b"question 1", 0.01
    ended = await run(world, greedy(6, 3), Reuse.BATCH)
    output, errors = await world.results(ended)
    assert {line["custom_id"] for line in errors} == {"row-1", "row-4"}
    assert {line["error"]["code"] for line in errors} == {"engine_crashed"}
    assert {line["custom_id"] for line in output} == {"row-0", "row-2", "row-3", "row-5"}


async def test_a_batch_goes_on_when_the_one_that_it_waits_for_is_cancelled(world: World, engine: TestEngine) -> None:
    engine.hold()
    first = await world.batch(greedy(4, 2), reuse=Reuse.SERVER)
    async with running(patient(world)):
        await poll(lambda: _true_when(engine.inflight == 2))
        second = await world.batch(greedy(6, 3), reuse=Reuse.SERVER)
        await poll(lambda: _true_when(engine.inflight == 3))
        await world.cancel(first)
        await world.ended(first)
        engine.let_go()
        ended = await world.ended(second)
    output, _ = await world.results(ended)
    assert answers_of(output) == expected(6, 3)
    assert ended.counts == RequestCounts(6, 6, 0, reused=3)


async def test_batches_that_run_at_once_ask_each_question_once(world: World, engine: TestEngine) -> None:
    engine.hold()
    batches = [await world.batch(greedy(24, 12), reuse=Reuse.SERVER) for _ in range(3)]
    async with running(patient(world)):
        await poll(lambda: _true_when(engine.inflight == 12))
        engine.let_go()
        ended = [await world.ended(batch) for batch in batches]
    assert len(engine.asked) == 12
    assert sum(batch.counts.reused for batch in ended) == 3 * 24 - 12


async def test_an_answer_that_goes_while_a_shard_is_opened_is_generated_again(
    world: World, engine: TestEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run(world, greedy(20, 20), Reuse.SERVER)
    engine.asked.clear()
    path = world.store.folder / SERVER_FOLDER / FILE_NAME
    batch = await world.batch(greedy(20, 20), reuse=Reuse.SERVER)
    kept = world.store.kept.of(batch)
    assert kept is not None
    read = kept.read

    def read_late(keys: Any) -> Any:
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE bodies SET body = 'x' WHERE id % 2 = 0")
        connection.close()
        return read(keys)

    monkeypatch.setattr(kept, "read", read_late)
    async with running(patient(world)):
        ended = await world.ended(batch)
    output, _ = await world.results(ended)
    assert answers_of(output) == expected(20, 20)
    assert (ended.counts.reused, len(engine.asked)) == (10, 10)


async def test_what_goes_wrong_with_kept_answers_costs_no_line(
    world: World, engine: TestEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run(world, greedy(20, 20), Reuse.SERVER)
    batch = await world.batch(greedy(20, 20), reuse=Reuse.SERVER)
    kept = world.store.kept.of(batch)

    def broken(_keys: Any) -> Any:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(kept, "read", broken)
    async with running(patient(world)):
        ended = await world.ended(batch)
    assert (ended.status, ended.counts) == (BatchStatus.COMPLETED, RequestCounts(20, 20, 0))


async def test_a_long_line_is_cut_into_slices_once_and_its_twins_have_the_whole(world: World) -> None:
    def embed(request: EngineRequest) -> EngineResult:
        texts = json.loads(request.body)["input"]
        data = [{"object": "embedding", "index": no, "embedding": [len(text)]} for no, text in enumerate(texts)]
        body = {"object": "list", "data": data, "model": "smol", "usage": {"prompt_tokens": len(texts)}}
        return EngineResult(200, json.dumps(body).encode(), Usage(len(texts)))

    model = ModelInfo("smol", "r1", ModelKind.POOLING, frozenset({EMBEDDINGS}), 2048, 0)
    engine = TestEngine(models=[model])
    engine.respond = embed
    world = World(world.store, registry_of(engine), SETTINGS)
    inputs = ["x" * (no % 7) for no in range(40)]
    lines = [
        {"custom_id": f"row-{no}", "method": "POST", "url": EMBEDDINGS, "body": {"model": "smol", "input": inputs}}
        for no in range(5)
    ]
    batch = await world.batch(lines, endpoint=EMBEDDINGS, reuse=Reuse.BATCH)
    async with running(patient(world, slice_sub_requests_max=8)):
        ended = await world.ended(batch)
    output, _ = await world.results(ended)
    assert len(engine.asked) == 5
    assert ended.counts.reused == 4
    for line in output:
        assert [row["embedding"] for row in line["response"]["body"]["data"]] == [[len(text)] for text in inputs]


async def test_a_scheduler_that_ends_in_the_middle_loses_and_doubles_nothing(world: World, engine: TestEngine) -> None:
    chance = random.Random(11)
    batch = await world.batch(greedy(400, 60), reuse=Reuse.SERVER)
    engine.answer_seconds = 0.002
    found = batch
    while not found.status.terminal:
        async with running(patient(world, holder=str(chance.random()), sole_scheduler=True)):
            for _ in range(chance.randrange(1, 12)):
                await asyncio.sleep(0.01)  # the moment of the end is what is random here
        found = await world.get(batch)
        if found.counts.completed > 300:
            async with running(patient(world, holder="last", sole_scheduler=True)):
                found = await world.ended(batch)
    output, errors = await world.results(found)
    assert errors == []
    assert [line["custom_id"] for line in output] == [f"row-{no}" for no in range(400)]
    assert answers_of(output) == expected(400, 60)
    assert found.counts == RequestCounts(400, 400, 0, reused=reused(output))


async def test_whatever_engines_do_every_line_has_exactly_one_result(world: World, engine: TestEngine) -> None:
    chance = random.Random(3)

    def moody(request: EngineRequest) -> EngineResult:
        mood = chance.random()
        if mood < 0.1:
            raise EngineUnavailable("half an answer")
        if mood < 0.15:
            raise EngineOverloaded("later", retry_after_seconds=0.001)
        if mood < 0.2:
            return EngineResult(503, b'{"error":{"message":"busy"}}')
        if mood < 0.25:
            asyncio.get_running_loop().call_soon(engine.die)
        return echo(request)

    engine.respond = moody
    engine.answer_seconds = 0.001
    batches = [await world.batch(greedy(120, 17), reuse=reuse) for reuse in (Reuse.SERVER, Reuse.SERVER, Reuse.BATCH)]
    async with running(patient(world, answer_attempts_max=50, retry_seconds_max=0.02)):
        ended = [await world.ended(batch) for batch in batches]
    for batch in ended:
        output, errors = await world.results(batch)
        seen = Counter(line["custom_id"] for line in output + errors)
        assert seen == Counter(f"row-{no}" for no in range(120))
        assert answers_of(output).items() <= expected(120, 17).items()
        assert all(line["error"]["code"] == "engine_crashed" for line in errors)
