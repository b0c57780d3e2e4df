"""A large line goes to the engine in slices, and has one result."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from engine.protocol import (
    CHAT_COMPLETIONS,
    COMPLETIONS,
    EMBEDDINGS,
    RERANK,
    SCORE,
    EngineRequest,
    EngineResult,
    EngineState,
    EngineUnavailable,
    ModelInfo,
    ModelKind,
    Usage,
)
from engine.simulated.engine import SimulatedEngine
from engine.simulated.profiles import CPU_135M
from scheduler.actors.dispatcher import Dispatcher
from scheduler.actors.held import HeldShard, Line
from scheduler.policy.packer import Cost
from scheduler.policy.planner import ModelKey
from store import BatchStatus
from store.records import Lease, LineResult, ShardRecord, ShardState
from tests.scheduler.world import SETTINGS, TestEngine, World, chat, chats, echo, registry_of, running

CHAT, EMBED = "simulated-cpu-135m", "simulated-cpu-135m-embed"


def request_line(custom_id: str, url: str, **body: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": {"model": "smol", **body}}


def embeddings(custom_id: str, inputs: int, prefix: str = "text") -> dict[str, Any]:
    return request_line(custom_id, EMBEDDINGS, input=[f"{prefix} {no}" for no in range(inputs)])


def inputs_of(request: EngineRequest) -> list[str]:
    return list(json.loads(request.body)["input"])


def embed(request: EngineRequest) -> EngineResult:
    """Each text's vector is the text's length; a request has one token a text."""
    texts = inputs_of(request)
    data = [{"object": "embedding", "index": no, "embedding": [len(text)]} for no, text in enumerate(texts)]
    body = {"object": "list", "data": data, "usage": {"prompt_tokens": len(texts), "total_tokens": len(texts)}}
    return EngineResult(200, json.dumps(body).encode(), Usage(prompt_tokens=len(texts)))


def refusal(message: str, status_code: int = 400) -> EngineResult:
    return EngineResult(status_code, json.dumps({"error": {"message": message}}).encode())


EVERYTHING = frozenset({CHAT_COMPLETIONS, COMPLETIONS, EMBEDDINGS, SCORE, RERANK})
MODEL = ModelInfo("smol", "r1", ModelKind.POOLING, EVERYTHING, 2048, 0)


@pytest.fixture
def engine() -> TestEngine:
    return an_engine()


def an_engine(name: str = "e", inflight_requests_max: int = 40, inflight_tokens_max: int | None = None) -> TestEngine:
    engine = TestEngine(
        name,
        models=[MODEL],
        inflight_requests_max=inflight_requests_max,
        inflight_tokens_max=inflight_tokens_max,
    )
    engine.respond = embed
    return engine


async def run(world: World, lines: list[dict[str, Any]], endpoint: str = EMBEDDINGS, **settings: Any) -> Any:
    """Output lines, error lines and the batch, once it has ended."""
    batch = await world.batch(lines, endpoint=endpoint)
    async with running(world.scheduler(**settings)):
        ended = await world.ended(batch)
    assert ended.status is BatchStatus.COMPLETED
    return *(await world.results(ended)), ended


async def test_a_large_line_is_sent_in_slices_and_recorded_once(world: World, engine: TestEngine) -> None:
    engine.answer_seconds = 0.01
    output, errors, ended = await run(world, [embeddings("a", 500), embeddings("b", 3), embeddings("c", 45)])
    assert [line["custom_id"] for line in output] == ["a", "b", "c"]
    assert errors == []
    for line, inputs in zip(output, (500, 3, 45), strict=True):
        body = line["response"]["body"]
        assert [item["index"] for item in body["data"]] == list(range(inputs))
        assert [item["embedding"] for item in body["data"]] == [[len(f"text {no}")] for no in range(inputs)]
        assert body["usage"]["total_tokens"] == inputs
    assert ended.usage.input_tokens == 548
    assert 30 <= engine.inflight_max <= 40
    assert max(len(json.loads(body)["input"]) for body in engine.asked) == 10


async def test_slices_keep_the_named_limit(world: World, engine: TestEngine) -> None:
    output, _, _ = await run(world, [embeddings("a", 20), embeddings("b", 4)], slice_sub_requests_max=4)
    assert len(output) == 2
    assert [len(json.loads(body)["input"]) for body in engine.asked] == [4] * 6


async def test_slices_of_a_line_share_its_kv_tokens(world: World) -> None:
    engine = an_engine(inflight_requests_max=64, inflight_tokens_max=400)
    engine.respond = respond_to_completions
    engine.answer_seconds = 0.01
    world.registry = registry_of(engine)
    prompts = [f"prompt {no}" for no in range(32)]
    line = request_line("a", COMPLETIONS, prompt=prompts, max_tokens=40)
    output, _, _ = await run(world, [line], COMPLETIONS)
    assert [choice["text"] for choice in output[0]["response"]["body"]["choices"]] == prompts
    assert 4 <= engine.inflight_max <= 9


def respond_to_completions(request: EngineRequest) -> EngineResult:
    prompts = json.loads(request.body)["prompt"]
    return EngineResult(
        200, json.dumps({"choices": [{"index": no, "text": text} for no, text in enumerate(prompts)]}).encode()
    )


MIXED: dict[str, list[dict[str, Any]]] = {
    EMBEDDINGS: [
        {"input": [f"text {no}" for no in range(90)]},
        {"input": [[no, no + 1] for no in range(50)], "encoding_format": "base64"},
        {"input": [*["text"] * 60, "far too long " * 1_000]},
    ],
    COMPLETIONS: [
        {"prompt": [f"prompt {no}" for no in range(70)], "n": 2, "max_tokens": 5},
        {"prompt": ["same"] * 40, "max_tokens": 3, "seed": 7},
    ],
    SCORE: [
        {"text_1": "a cat", "text_2": [f"cat {no}" for no in range(90)]},
        {"queries": [f"q {no}" for no in range(50)], "documents": [f"d {no}" for no in range(50)]},
    ],
    RERANK: [
        {"query": "a cat", "documents": [f"cat {no % 7}" for no in range(90)], "top_n": 11},
        {"query": "a cat", "documents": [f"cat {no}" for no in range(60)]},
    ],
    CHAT_COMPLETIONS: [{"messages": [{"role": "user", "content": "hi"}], "n": 40, "max_tokens": 4}],
}


@pytest.mark.parametrize("endpoint", MIXED)
async def test_the_results_are_those_of_whole_requests(world: World, endpoint: str) -> None:
    model = CHAT if endpoint in (COMPLETIONS, CHAT_COMPLETIONS) else EMBED
    lines = [request_line(f"row-{no}", endpoint, **body) for no, body in enumerate(MIXED[endpoint])]
    lines = [{**line, "body": {**line["body"], "model": model}} for line in lines]
    simulated = SimulatedEngine("sim", CPU_135M)
    world.registry = registry_of(simulated)
    await simulated.start()
    whole = await run(world, lines, endpoint, slice_sub_requests_max=10_000)
    sliced = await run(world, lines, endpoint, slice_sub_requests_max=8)
    await simulated.stop()
    assert [without_ids(found) for found in whole[:2]] == [without_ids(found) for found in sliced[:2]]
    assert (whole[2].counts, whole[2].usage) == (sliced[2].counts, sliced[2].usage)


def without_ids(lines: list[dict[str, Any]]) -> list[Any]:
    bodies = [(line["custom_id"], line["response"]["status_code"], line["response"]["body"]) for line in lines]
    return [(name, status, {**body, "id": None}) for name, status, body in bodies]


async def test_the_first_refused_slice_by_position_is_the_result(world: World, engine: TestEngine) -> None:
    late = asyncio.Event()

    def refuse_two(request: EngineRequest) -> EngineResult:
        texts = inputs_of(request)
        if "text 35" in texts:
            late.set()
            return refusal("inputs[5] is the later bad one")
        if "text 12" in texts:
            if not late.is_set():
                raise EngineUnavailable("not yet")
            return refusal("inputs[2] is bad")
        return embed(request)

    engine.respond = refuse_two
    output, errors, _ = await run(world, [embeddings("bad", 200), embeddings("good", 20, "good")])
    assert [line["custom_id"] for line in output] == ["good"]
    assert errors[0]["response"]["body"]["error"]["message"] == "inputs[2] is bad"
    asked = [text for body in engine.asked for text in json.loads(body)["input"]]
    assert "text 199" not in asked, "what comes behind a refused slice is not sent"


async def test_slices_in_flight_behind_a_refused_one_are_cancelled_at_once(world: World, engine: TestEngine) -> None:
    never = asyncio.Event()
    is_stuck = asyncio.Event()

    class Stuck(TestEngine):
        async def generate(self, request: EngineRequest) -> EngineResult:
            if b'"text 0"' in request.body:
                await is_stuck.wait()
                return refusal("no")
            if b'"text 30"' in request.body:
                is_stuck.set()
                await never.wait()
            return await super().generate(request)

    engine = Stuck(models=[MODEL], inflight_requests_max=40)
    engine.respond = embed
    world.registry = registry_of(engine)
    output, errors, _ = await run(world, [embeddings("bad", 80), embeddings("good", 80, "good")])
    assert is_stuck.is_set()
    assert [line["custom_id"] for line in errors] == ["bad"]
    assert [line["custom_id"] for line in output] == ["good"]


async def test_a_slice_that_comes_back_is_sent_again_alone(world: World, engine: TestEngine) -> None:
    asked: Counter[bytes] = Counter()

    def give_back_one(request: EngineRequest) -> EngineResult:
        asked[request.body] += 1
        if "text 33" in inputs_of(request) and asked[request.body] < 4:
            raise EngineUnavailable("aborted")
        return embed(request)

    engine.respond = give_back_one
    output, _, _ = await run(world, [embeddings("a", 100)])
    assert len(output) == 1
    assert sorted(asked.values()) == [1] * 9 + [4]


async def test_a_slice_answered_with_server_errors_ends_the_line_with_the_last_one(
    world: World, engine: TestEngine
) -> None:
    engine.respond = lambda request: refusal("broken", 500) if "text 33" in inputs_of(request) else embed(request)
    output, errors, _ = await run(world, [embeddings("bad", 100), embeddings("good", 100, "good")])
    assert [line["custom_id"] for line in output] == ["good"]
    assert [line["response"]["status_code"] for line in errors] == [500]


async def test_an_engine_that_raises_what_it_may_not_on_a_slice_costs_only_its_line(
    world: World, engine: TestEngine
) -> None:
    def broken(request: EngineRequest) -> EngineResult:
        if "text 33" in inputs_of(request):
            raise KeyError("data")
        return embed(request)

    engine.respond = broken
    output, errors, _ = await run(world, [embeddings("bad", 100), embeddings("good", 100, "good")])
    assert [line["custom_id"] for line in output] == ["good"]
    assert [line["error"]["code"] for line in errors] == ["internal_error"]


async def test_a_line_whose_slices_cannot_be_joined_is_sent_as_one_request(world: World, engine: TestEngine) -> None:
    def only_five(request: EngineRequest) -> EngineResult:
        answer = json.loads(embed(request).body)
        return EngineResult(200, json.dumps({**answer, "data": answer["data"][:5]}).encode())

    engine.respond = only_five
    output, _, _ = await run(world, [embeddings("a", 100)])
    assert len(output[0]["response"]["body"]["data"]) == 5
    assert len(json.loads(engine.asked[-1])["input"]) == 100
    assert len(engine.asked) <= 5


async def test_a_death_with_slices_in_flight_loses_nothing(world: World, engine: TestEngine) -> None:
    engine.hold()
    batch = await world.batch([embeddings("a", 200), embeddings("b", 7, "b")], endpoint=EMBEDDINGS)
    async with running(world.scheduler()):
        for _ in range(2):
            await world.until(batch, lambda _: engine.inflight == 40)
            engine.die()
        engine.let_go()
        ended = await world.ended(batch)
    output, _ = await world.results(ended)
    assert [len(line["response"]["body"]["data"]) for line in output] == [200, 7]


async def test_a_poisonous_slice_has_its_line_blamed_and_no_other(world: World, engine: TestEngine) -> None:
    engine.poison = b'"text 137"'
    engine.answer_seconds = 0.005
    lines = [embeddings("before", 60, "before"), embeddings("bad", 200), embeddings("after", 60, "after")]
    output, errors, _ = await run(world, lines)
    assert [line["custom_id"] for line in output] == ["before", "after"]
    assert [(line["custom_id"], line["error"]["code"]) for line in errors] == [("bad", "engine_crashed")]


async def test_slices_run_on_every_engine_of_their_model(world: World) -> None:
    engines = [an_engine(name, inflight_requests_max=16) for name in ("first", "second")]
    for one in engines:
        one.answer_seconds = 0.01
    world.registry = registry_of(*engines)
    output, _, _ = await run(world, [embeddings("a", 100)])
    assert [item["index"] for item in output[0]["response"]["body"]["data"]] == list(range(100))
    assert all(one.inflight_max <= 16 and len(one.asked) > 5 for one in engines)


async def test_cancelling_a_batch_cancels_all_its_slices(world: World, engine: TestEngine) -> None:
    engine.hold()
    batch = await world.batch([embeddings("a", 500), embeddings("b", 2)], endpoint=EMBEDDINGS)
    async with running(world.scheduler()):
        await world.until(batch, lambda _: engine.inflight == 40)
        assert await world.cancel(batch) is not None
        ended = await world.ended(batch)
    assert (ended.status, engine.inflight, len(engine.asked)) == (BatchStatus.CANCELLED, 0, 4)
    output, errors = await world.results(ended)
    assert output == []
    assert [line["error"]["code"] for line in errors] == ["batch_cancelled"] * 2


async def test_a_line_that_was_half_answered_at_a_stop_is_generated_again_and_recorded_once(
    world: World, engine: TestEngine
) -> None:
    def hold_the_rest(request: EngineRequest) -> EngineResult:
        if "text 90" in inputs_of(request):
            engine.hold()
        return embed(request)

    engine.respond = hold_the_rest
    batch = await world.batch([embeddings("a", 200)], endpoint=EMBEDDINGS)
    async with running(world.scheduler()):
        await world.until(batch, lambda _: len(engine.asked) > 10)
    engine.respond = embed
    engine.let_go()
    async with running(world.scheduler(holder="two", lease_seconds=4.0)):
        ended = await world.ended(batch)
    output, _ = await world.results(ended)
    assert [item["index"] for item in output[0]["response"]["body"]["data"]] == list(range(200))
    assert ended.counts.completed == 1


def a_shard(lines: int) -> HeldShard:
    record = ShardRecord("b", 0, 0, lines, "smol", "r1", ShardState.LEASED, 1)
    shard = HeldShard("b", "t", CHAT_COMPLETIONS, Lease(record, "one", 1, 2.0**33, ()), ModelKey("smol", "r1"), 0.0)
    body = json.dumps(chat("x")["body"]).encode()
    shard.waiting.extend(Line(shard, no, f"row-{no}", body, Cost(1, 1)) for no in range(lines))
    return shard


async def test_a_request_cancelled_before_its_first_step_gives_its_place_back(engine: TestEngine) -> None:
    engine.respond = echo
    done: list[int] = []
    all_done = asyncio.Event()

    def record(_: HeldShard, result: LineResult) -> None:
        done.append(result.line_no)
        if len(done) == 40:
            all_done.set()

    dispatcher = Dispatcher(
        registry_of(engine),
        replace(SETTINGS),
        record=record,
        on_low=lambda: None,
        monotonic=time.monotonic,
    )
    for _ in range(3):
        shard = a_shard(40)
        dispatcher.add(shard)
        await asyncio.gather(*dispatcher.remove(shard), return_exceptions=True)
    assert engine.asked == []
    dispatcher.add(a_shard(40))
    async with asyncio.timeout(10):
        await all_done.wait()
    assert sorted(done) == list(range(40))


async def test_a_large_line_waits_whole_while_no_engine_is_ready(world: World, engine: TestEngine) -> None:
    engine.change(EngineState.DOWN, "out of memory")
    batch = await world.batch([embeddings("a", 100)], endpoint=EMBEDDINGS)
    async with running(world.scheduler()):
        await world.until(batch, lambda found: found.paused_at is not None)
        engine.change(EngineState.READY)
        ended = await world.ended(batch)
    assert ended.counts.completed == 1


async def test_ordinary_lines_run_beside_slices(world: World, engine: TestEngine) -> None:
    engine.respond = lambda request: embed(request) if request.endpoint == EMBEDDINGS else echo(request)
    engine.answer_seconds = 0.01
    wide = await world.batch([embeddings("a", 400)], endpoint=EMBEDDINGS)
    small = await world.batch(chats(100))
    async with running(world.scheduler()):
        ended = [await world.ended(batch) for batch in (wide, small)]
    assert [batch.counts.completed for batch in ended] == [1, 100]
    assert engine.inflight_max <= 40
