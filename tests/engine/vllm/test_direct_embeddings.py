"""Real vLLM: an embedding that goes past the serving class is the one that the serving class gives.

`embed_dtype` with its own default changes nothing in an answer, and is no field of a plain request: with it a body goes
the long way.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from engine.protocol import EMBEDDINGS, EngineRequest
from engine.vllm.connection import log_path
from tests.engine.vllm.harness import EMBEDDING_MODEL, VllmUnderTest

pytestmark = [pytest.mark.real_engine, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]

EXAMPLES = Path(__file__).parents[3] / "examples" / "banking77.jsonl"
LINES = 200
LONG_WAY = {"embed_dtype": "float32"}
DIFFERENCE_MAX = 2e-3
"""Of numbers of a vector of length 1, where other texts share the step: the default model runs in 16 bits."""


def texts() -> list[str]:
    lines = [json.loads(line) for line in EXAMPLES.read_bytes().splitlines()[:LINES]]
    assert len(lines) == LINES
    return [str(line["body"]["messages"][-1]["content"]) for line in lines]


async def ask(under_test: VllmUnderTest, fields: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    body = json.dumps({"model": EMBEDDING_MODEL, **fields}).encode()
    request = EngineRequest("direct", EMBEDDING_MODEL, EMBEDDINGS, body, sub_requests=1)
    result = await under_test.embedding_engine.generate(request)
    answer = json.loads(result.body)
    if result.ok:
        assert result.usage.prompt_tokens == answer["usage"]["prompt_tokens"]
        assert answer.pop("id").startswith("embd-")
        assert abs(answer.pop("created")) > 0
    return result.status_code, answer


async def test_two_hundred_lines_alone_in_the_engine_are_answered_exactly_alike(under_test: VllmUnderTest) -> None:
    for text in texts():
        plain, long = {"input": text}, {"input": text, **LONG_WAY}
        assert await ask(under_test, plain) == await ask(under_test, long)


async def test_two_hundred_lines_at_once_are_answered_alike(under_test: VllmUnderTest) -> None:
    short = await asyncio.gather(*(ask(under_test, {"input": text}) for text in texts()))
    long = await asyncio.gather(*(ask(under_test, {"input": text, **LONG_WAY}) for text in texts()))
    for (one_status, one), (other_status, other) in zip(short, long, strict=True):
        ((mine,), (theirs,)) = one.pop("data"), other.pop("data")
        assert mine.pop("embedding") == pytest.approx(theirs.pop("embedding"), abs=DIFFERENCE_MAX)
        assert (one_status, one, mine) == (other_status, other, theirs)


@pytest.mark.parametrize(
    "fields",
    [
        {"input": "one text", "encoding_format": "base64"},
        {"input": "one text", "user": "somebody"},
        {"input": ""},
        {"input": "Straße, 你好, \u0130stanbul \U0001f600\u200d"},
        {"input": "a text of which little is left", "truncate_prompt_tokens": 4},
        {"input": "long " * 2_000, "truncate_prompt_tokens": -1},
        {"input": "long " * 2_000},
        {"input": "x" * 2_000_000},
        {"input": "a", "truncate_prompt_tokens": 1_000_000},
        {"input": "a", "dimensions": 4},
        {"input": "a", "dimensions": -1},
        {"input": []},
        {"input": ["a", 3]},
        {"input": [101, 102]},
        {"input": [[101, 102]]},
        {"input": "a", "encoding_format": None},
    ],
    ids=lambda fields: json.dumps(fields)[:60],
)
async def test_whatever_is_odd_about_a_request_both_ways_say_the_same(
    under_test: VllmUnderTest, fields: dict[str, Any]
) -> None:
    assert await ask(under_test, fields) == await ask(under_test, {**fields, **LONG_WAY})


async def test_the_texts_of_a_line_keep_their_order(under_test: VllmUnderTest) -> None:
    some = texts()[:70]
    _, together = await ask(under_test, {"input": some})
    assert [item["index"] for item in together["data"]] == list(range(len(some)))
    for text, item in list(zip(some, together["data"], strict=True))[::7]:
        _, alone = await ask(under_test, {"input": text})
        assert item["embedding"] == pytest.approx(alone["data"][0]["embedding"], abs=DIFFERENCE_MAX)


async def test_one_text_that_is_too_long_is_the_refusal_of_its_line_alone(under_test: VllmUnderTest) -> None:
    lines = [{"input": text} for text in texts()[:20]]
    lines[7] = {"input": "long " * 2_000}
    found = await asyncio.gather(*(ask(under_test, line) for line in lines))
    assert [status for status, _ in found] == [400 if no == 7 else 200 for no in range(20)]
    assert found[7][1]["error"]["code"] == "context_length_exceeded"


async def test_the_short_way_is_the_one_that_is_taken(under_test: VllmUnderTest) -> None:
    engine = under_test.embedding_engine
    await ask(under_test, {"input": "one more"})
    assert "serving class" not in log_path(engine._folder, engine.name).read_text(errors="replace")
