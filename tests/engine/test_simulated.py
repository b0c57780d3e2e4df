"""The simulated engine's answers and faults."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest

from engine.protocol import (
    CHAT_COMPLETIONS,
    COMPLETIONS,
    EMBEDDINGS,
    EngineOverloaded,
    EngineRequest,
    EngineResult,
    EngineStartError,
    EngineState,
    EngineUnavailable,
)
from engine.simulated import PROFILES, SimulatedEngine, SimulatedFaults
from engine.simulated.schemas import UnsupportedSchema, instance

PROFILE = PROFILES["cpu-135m"]
CHAT, EMBED = "simulated-cpu-135m", "simulated-cpu-135m-embed"


def chat(text: str = "hello", number: int = 0, **fields: Any) -> EngineRequest:
    body = {"messages": [{"role": "user", "content": text}], **fields}
    return EngineRequest(f"r{number}", CHAT, CHAT_COMPLETIONS, json.dumps(body).encode())


async def started(**options: Any) -> SimulatedEngine:
    engine = SimulatedEngine("sim", PROFILE, **options)
    await engine.start()
    return engine


async def answer(engine: SimulatedEngine, request: EngineRequest) -> Any:
    return json.loads((await engine.generate(request)).body)


async def test_an_answer_is_a_function_of_its_request() -> None:
    first = await started(seed=1)
    lines = [chat(f"line {number}", number) for number in range(50)]
    alone = [await first.generate(line) for line in lines]
    second = await started(seed=2, time_scale=0.001)
    together = await asyncio.gather(*(second.generate(line) for line in reversed(lines)))
    assert alone == list(reversed(together))
    assert len({result.body for result in alone}) == 50
    await first.stop()
    await second.stop()


async def test_cached_tokens_are_shown_when_asked_for() -> None:
    engine = await started(report_cached_tokens=True)
    long = chat("word " * 400, max_tokens=1)
    assert (await engine.generate(long)).usage.cached_tokens == 0
    result = await engine.generate(long)
    assert result.usage.cached_tokens == result.usage.prompt_tokens // 32 * 32
    await engine.stop()


async def test_a_stop_string_ends_the_text_before_it() -> None:
    engine = await started()
    said = await answer(engine, chat(max_tokens=40, ignore_eos=True, stop=["never said", " "]))
    choice = said["choices"][0]
    assert choice["message"]["content"].isalpha()
    assert choice["finish_reason"] == "stop"
    assert said["usage"]["completion_tokens"] == 2
    await engine.stop()


async def test_a_forced_tool_is_called_with_arguments_that_fit() -> None:
    engine = await started()
    parameters = {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": parameters}}]
    said = await answer(engine, chat(tools=tools, tool_choice="required"))
    choice = said["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    function = choice["message"]["tool_calls"][0]["function"]
    assert function["name"] == "weather"
    assert json.loads(function["arguments"])["city"] in {"Rome", "Oslo"}
    await engine.stop()


async def test_completions_default_to_sixteen_tokens_and_take_token_ids() -> None:
    engine = await started()
    for prompt, choices in (("a", 1), ([1, 2, 3], 1), (["a", "b"], 2), ([[1, 2], [3]], 2)):
        body = json.dumps({"prompt": prompt, "ignore_eos": True}).encode()
        said = await answer(engine, EngineRequest("r", CHAT, COMPLETIONS, body))
        assert len(said["choices"]) == choices
        assert said["usage"]["completion_tokens"] == 16 * choices
    await engine.stop()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 8_192}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"tool_choice": "required"}, "tool_choice"),
    ],
)
async def test_bad_parameters_are_named(fields: dict[str, Any], param: str) -> None:
    engine = await started()
    said = await answer(engine, chat(**fields))
    assert said["error"]["param"] == param
    await engine.stop()


async def test_words_in_common_make_vectors_alike() -> None:
    engine = await started()
    body = json.dumps({"input": ["where is my card", "where is my card please", "green tea"]}).encode()
    said = await answer(engine, EngineRequest("r", EMBED, EMBEDDINGS, body))
    a, b, c = (item["embedding"] for item in said["data"])
    assert len(a) == PROFILE.embedding_dimensions
    assert sum(x * y for x, y in zip(a, b, strict=True)) > sum(x * y for x, y in zip(a, c, strict=True))
    await engine.stop()


async def die(engine: SimulatedEngine, requests: list[EngineRequest]) -> list[EngineResult | BaseException]:
    return await asyncio.gather(*(engine.generate(request) for request in requests), return_exceptions=True)


async def test_poison_kills_the_engine_every_time() -> None:
    engine = await started(faults=SimulatedFaults(poison="drop dead"))
    for life in (1, 2):
        outcomes = await die(engine, [chat("drop dead"), chat("innocent", ignore_eos=True, max_tokens=2_000)])
        assert [isinstance(outcome, EngineUnavailable) and outcome.died for outcome in outcomes] == [True, True]
        assert engine.status().state is EngineState.STOPPED
        assert engine.status().incarnation == life
        await engine.start()
    assert (await engine.generate(chat("innocent"))).ok
    await engine.stop()


async def test_a_life_ends_at_its_nth_request_and_deaths_can_be_bounded() -> None:
    engine = await started(faults=SimulatedFaults(die_after_requests=3, deaths_max=1))
    assert [(await engine.generate(chat(number=number))).ok for number in range(2)] == [True, True]
    with pytest.raises(EngineUnavailable) as raised:
        await engine.generate(chat())
    assert raised.value.died
    await engine.start()
    for number in range(5):
        assert (await engine.generate(chat(number=number))).ok
    await engine.stop()


async def test_faults_by_chance_repeat_with_the_seed() -> None:
    async def fates(seed: int) -> list[str]:
        engine = await started(seed=seed, faults=SimulatedFaults(overload_probability=0.3, abort_probability=0.3))
        outcomes = [(await die(engine, [chat(number=number)]))[0] for number in range(40)]
        await engine.stop()
        return [type(outcome).__name__ for outcome in outcomes]

    assert await fates(7) == await fates(7) != await fates(8)
    assert set(await fates(7)) == {"EngineResult", "EngineOverloaded", "EngineUnavailable"}


async def test_a_failing_start_says_its_cause() -> None:
    engine = SimulatedEngine("sim", PROFILE, faults=SimulatedFaults(failing_starts=1, start_cause="no such file"))
    with pytest.raises(EngineStartError, match="no such file"):
        await engine.start()
    assert engine.status().reason == "no such file"
    await engine.start()
    assert engine.status().starts == 2
    await engine.stop()


async def test_too_many_waiting_are_told_to_come_later() -> None:
    engine = await started(time_scale=1.0)
    flying = [asyncio.create_task(engine.generate(chat(n=128))) for _ in range(33)]
    await asyncio.sleep(0)
    with pytest.raises(EngineOverloaded):
        await engine.generate(chat(n=128))
    await engine.stop()
    await asyncio.gather(*flying, return_exceptions=True)


async def test_time_scale_plays_virtual_seconds_in_real_time() -> None:
    engine = await started(time_scale=0.05)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await asyncio.gather(*(engine.generate(chat(number=n, max_tokens=100, ignore_eos=True)) for n in range(8)))
    virtual = engine.virtual_seconds
    assert loop.time() - begun >= 0.98 * virtual * 0.05
    assert virtual == pytest.approx(100 * PROFILE.seconds_of_step(8, 0), rel=0.1)
    await engine.stop()


SCHEMAS = [
    {"type": "object", "properties": {"a": {"type": "integer", "minimum": 3, "maximum": 3}}, "required": ["a"]},
    {"enum": ["x", "y"]},
    {"const": 5},
    {"type": "array", "items": {"type": "number", "exclusiveMinimum": 0, "maximum": 1}, "minItems": 3},
    {"type": ["string", "null"], "minLength": 20, "maxLength": 22},
    {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
    {"$ref": "#/$defs/node", "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}}},
    {"allOf": [{"properties": {"a": {"type": "string"}}}, {"properties": {"b": {"type": "null"}}, "required": ["b"]}]},
    {"type": "string", "format": "date-time"},
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=str)
def test_instances_validate(schema: dict[str, Any]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    for seed in range(20):
        made = json.loads(json.dumps(instance(schema, random.Random(seed))))
        jsonschema.validate(made, schema)


@pytest.mark.parametrize("schema", [{"pattern": "("}, {"$ref": "#/nowhere"}, {"$ref": "#"}, {"type": "colour"}, False])
def test_what_cannot_be_satisfied_is_said(schema: Any) -> None:
    with pytest.raises(UnsupportedSchema):
        instance(schema, random.Random(0))
