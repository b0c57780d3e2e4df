"""Which embedding requests are plain, what their answers look like, and when two ways to an answer agree."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.answers import shape_answer
from engine.protocol import EMBEDDINGS, EngineResult
from engine.vllm import plain_embeddings
from engine.vllm.agreement import PROBES, agree, alike

VECTORS = [[0.5, -0.25, 1.0], [0.125, 0.0, -1.0]]


@pytest.mark.parametrize(
    ("fields", "texts"),
    [
        ({"input": "a"}, ["a"]),
        ({"input": ""}, [""]),
        ({"input": ["a", "b"]}, ["a", "b"]),
        ({"input": "a", "encoding_format": "base64", "dimensions": 2, "user": "u", "priority": 10}, ["a"]),
        ({"input": "a", "truncate_prompt_tokens": -1}, ["a"]),
        ({"input": []}, None),
        ({"input": [1, 2]}, None),
        ({"input": [[1, 2]]}, None),
        ({"input": ["a", 1]}, None),
        ({"input": "a", "encoding_format": None}, None),
        ({"input": "a", "encoding_format": "bytes"}, None),
        ({"input": "a", "dimensions": "2"}, None),
        ({"input": "a", "dimensions": True}, None),
        ({"input": "a", "embed_dtype": "float16"}, None),
        ({"input": "a", "anything": 1}, None),
        ({"messages": [{"role": "user", "content": "a"}]}, None),
        ({}, None),
    ],
)
def test_what_vllm_might_read_otherwise_is_not_plain(fields: dict[str, Any], texts: list[str] | None) -> None:
    found = plain_embeddings.read(json.dumps({"model": "m", **fields}).encode())
    assert (None if found is None else found.texts) == texts


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"model": "m", "input": "\\ud800"}', b"[" * 100_000, b'{"model": "\xff"}']
)
def test_a_body_that_cannot_be_read_is_not_plain(body: bytes) -> None:
    assert plain_embeddings.read(body) is None


def vllm_answer(vectors: list[Any] = VECTORS, **usage: int) -> bytes:
    """As vLLM writes it, with what is taken out of it later."""
    data = [{"index": no, "object": "embedding", "embedding": vector} for no, vector in enumerate(vectors)]
    counts = {"prompt_tokens": 7, "total_tokens": 7, "completion_tokens": 0, "prompt_tokens_details": None, **usage}
    answer = {"id": "embd-1", "object": "list", "created": 5, "model": "m", "data": data, "usage": counts}
    return json.dumps(answer).encode()


@pytest.mark.parametrize("vectors", [VECTORS, ["AACAPw==", "AAAAAA=="]], ids=["float", "base64"])
def test_an_answer_is_written_as_vllms_own_is_shaped(vectors: list[Any]) -> None:
    mine = plain_embeddings.write("embd-1", 5, "m", vectors, 7)
    theirs = shape_answer(EMBEDDINGS, vllm_answer(vectors))
    assert json.loads(mine.body) == json.loads(theirs.body)
    assert list(json.loads(mine.body)) == list(json.loads(theirs.body))
    assert (mine.status_code, mine.usage) == (theirs.status_code, theirs.usage)


@pytest.mark.parametrize(
    ("other", "is_alike"),
    [
        (vllm_answer(), True),
        (vllm_answer([[0.501, -0.25, 1.0], VECTORS[1]]), True),
        (vllm_answer([[0.53, -0.25, 1.0], VECTORS[1]]), False),
        (vllm_answer([[0.5, -0.25], VECTORS[1]]), False),
        (vllm_answer(VECTORS[:1]), False),
        (vllm_answer(prompt_tokens=8), False),
        (vllm_answer([[float("nan")] * 3, VECTORS[1]]), False),
        (b"no JSON", False),
        (b'{"data": 1}', False),
    ],
    ids=[
        "equal",
        "rounded",
        "another vector",
        "shorter",
        "fewer",
        "other tokens",
        "no numbers",
        "no JSON",
        "no answer",
    ],
)
def test_answers_agree_up_to_rounding(other: bytes, is_alike: bool) -> None:
    assert alike(plain_embeddings.write("embd-2", 6, "m", VECTORS, 7).body, other) is is_alike


@pytest.mark.parametrize(
    ("short_answers", "long_status", "agrees"), [(True, 200, True), (False, 200, False), (True, 400, False)]
)
async def test_the_short_way_is_taken_only_where_both_ways_answer(
    short_answers: bool, long_status: int, agrees: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def short(body: bytes) -> EngineResult | None:
        assert json.loads(body) == {"model": "m", "input": list(PROBES)}
        return plain_embeddings.write("embd-2", 6, "m", VECTORS, 7) if short_answers else None

    async def long(endpoint: str, body: bytes) -> tuple[int, bytes]:
        return long_status, vllm_answer()

    assert await agree(short, long, "m") is agrees
    assert ("not the same" in caplog.text) is not agrees
