"""The profile that takes no time: plain chats are answered from their bytes, everything else as by any simulation."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from engine.protocol import CHAT_COMPLETIONS, EMBEDDINGS, EngineRequest, EngineResult
from engine.simulated import PROFILES, SimulatedEngine, SimulatedFaults

PROFILE = PROFILES["instant"]
CHAT, EMBED = "simulated-instant", "simulated-instant-embed"


def chat(text: str = "hello", **fields: Any) -> EngineRequest:
    body = {"model": "any", "messages": [{"role": "user", "content": text}], **fields}
    return EngineRequest("r", CHAT, CHAT_COMPLETIONS, json.dumps(body).encode())


async def started(**options: Any) -> SimulatedEngine:
    engine = SimulatedEngine("sim", PROFILE, **options)
    await engine.start()
    return engine


def fields_of(result: EngineResult) -> Any:
    assert b"\n" not in result.body
    return json.loads(result.body)


async def test_an_answer_is_a_function_of_its_request_and_has_the_shape_of_any_other() -> None:
    engine = await started()
    first, again = [await engine.generate(chat("hello", max_tokens=8)) for _ in range(2)]
    assert first == again
    plain = fields_of(first)
    simulated = fields_of(await engine.generate(chat("hello", max_tokens=8, n=1)))  # `n` is not plain
    assert plain.keys() == simulated.keys()
    assert plain["choices"][0].keys() == simulated["choices"][0].keys()
    assert plain["usage"].keys() == simulated["usage"].keys()
    assert plain["usage"]["prompt_tokens"] == simulated["usage"]["prompt_tokens"] == first.usage.prompt_tokens
    assert plain["choices"][0]["message"].keys() == simulated["choices"][0]["message"].keys()
    assert plain["model"] == CHAT


@pytest.mark.parametrize("limit", [1, 3, None])
async def test_an_answer_keeps_its_limit_and_says_so(limit: int | None) -> None:
    engine = await started()
    for number in range(20):
        result = await engine.generate(chat(f"question {number}", **({} if limit is None else {"max_tokens": limit})))
        choice = fields_of(result)["choices"][0]
        words = len(choice["message"]["content"].split())
        assert words == result.usage.completion_tokens <= (limit or 8)
        assert choice["finish_reason"] == ("length" if words == limit else "stop") or limit == words


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (chat("x" * 4 * PROFILE.context_tokens_max), 400, "context_length_exceeded"),
        (chat(max_tokens=0), 400, None),
        (chat(messages=[]), 400, None),
        (EngineRequest("r", "other", CHAT_COMPLETIONS, b"{}"), 404, "model_not_found"),
    ],
)
async def test_what_is_refused_is_refused_by_the_simulation(
    request_: EngineRequest, status: int, code: str | None
) -> None:
    result = await (await started()).generate(request_)
    assert (result.status_code, fields_of(result)["error"]["code"]) == (status, code)


async def test_whatever_is_not_a_plain_chat_is_simulated_at_once() -> None:
    engine = await started(time_scale=1.0)
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    embedding = EngineRequest("r", EMBED, EMBEDDINGS, b'{"model": "any", "input": ["a", "b"]}')
    answered, embedded = await asyncio.gather(engine.generate(chat(response_format=wanted)), engine.generate(embedding))
    assert "a" in json.loads(fields_of(answered)["choices"][0]["message"]["content"])
    assert [len(one["embedding"]) for one in fields_of(embedded)["data"]] == [384, 384]


async def test_with_faults_every_request_is_simulated() -> None:
    engine = await started(faults=SimulatedFaults(poison="hemlock"))
    assert (await engine.generate(chat("tea"))).ok
    with pytest.raises(Exception, match="died"):
        await engine.generate(chat("hemlock"))
