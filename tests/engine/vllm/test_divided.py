"""Real vLLM answers the slices of a request as it answers the whole."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from engine.merging import merge
from engine.protocol import COMPLETIONS, EMBEDDINGS, RERANK, SCORE, Engine, EngineRequest
from engine.slices import split
from tests.engine.vllm.harness import CHAT_MODEL, EMBEDDING_MODEL, VllmUnderTest

pytestmark = [pytest.mark.real_engine, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]

TEXTS = [f"The {animal} of house {no} sleeps." for no in range(10) for animal in ("cat", "dog", "old parrot")]


async def whole_and_merged(
    engine: Engine, model: str, endpoint: str, body: dict[str, Any], limit: int = 7
) -> tuple[dict[str, Any], dict[str, Any]]:
    slices = split(endpoint, json.dumps(body).encode(), limit)
    assert slices is not None
    bodies = [json.dumps(body).encode(), *(slices.body(no) for no in range(len(slices)))]
    requests = [
        EngineRequest(f"divided-{endpoint}-{no}", model, endpoint, text, sub_requests=limit)
        for no, text in enumerate(bodies)
    ]
    whole, *apart = await asyncio.gather(*map(engine.generate, requests))
    merged = merge(slices, apart)
    assert whole.ok, whole.body
    assert merged.ok, merged.body
    found = json.loads(whole.body), json.loads(merged.body)
    for answer in found:
        answer.pop("id")
        answer.pop("created", None)
    assert [*found[0]] == [*found[1]]
    return found


async def test_embeddings(under_test: VllmUnderTest) -> None:
    body = {"model": EMBEDDING_MODEL, "input": TEXTS}
    whole, merged = await whole_and_merged(under_test.embedding_engine, EMBEDDING_MODEL, EMBEDDINGS, body)
    for one, other in zip(whole.pop("data"), merged.pop("data"), strict=True):
        assert (one["index"], one["object"]) == (other["index"], other["object"])
        assert one["embedding"] == pytest.approx(other["embedding"], abs=2e-3)
    assert whole == merged


async def test_scores(under_test: VllmUnderTest) -> None:
    body = {"model": EMBEDDING_MODEL, "text_1": "A sleeping dog", "text_2": TEXTS}
    whole, merged = await whole_and_merged(under_test.embedding_engine, EMBEDDING_MODEL, SCORE, body)
    for one, other in zip(whole["data"], merged["data"], strict=True):
        assert one["index"] == other["index"]
        assert one["score"] == pytest.approx(other["score"], abs=2e-3)
    # A model that embeds each side by itself reads the query again for every slice, and says so.
    assert merged["usage"]["prompt_tokens"] >= whole["usage"]["prompt_tokens"]


async def test_a_ranking(under_test: VllmUnderTest) -> None:
    body = {"model": EMBEDDING_MODEL, "query": "A sleeping dog", "documents": TEXTS, "top_n": 12}
    whole, merged = await whole_and_merged(under_test.embedding_engine, EMBEDDING_MODEL, RERANK, body)
    assert len(merged["results"]) == 12
    for one, other in zip(whole["results"], merged["results"], strict=True):
        assert one["relevance_score"] == pytest.approx(other["relevance_score"], abs=2e-3)
        assert TEXTS[other["index"]] == other["document"]["text"]


async def test_completions_of_several_choices(under_test: VllmUnderTest) -> None:
    """Echoed, so that each choice shows whose it is; of a fixed length, as reduced precision may flip a near-tie."""
    body = {"model": CHAT_MODEL, "prompt": TEXTS, "n": 2, "max_tokens": 4, "ignore_eos": True, "echo": True, "seed": 3}
    whole, merged = await whole_and_merged(under_test.engine, CHAT_MODEL, COMPLETIONS, body)
    for answer in (whole, merged):
        choices = answer.pop("choices")
        assert [choice["index"] for choice in choices] == list(range(2 * len(TEXTS)))
        assert [TEXTS[no // 2] for no in range(len(choices))] == [
            choice["text"][: len(TEXTS[no // 2])] for no, choice in enumerate(choices)
        ]
        answer["usage"].pop("prompt_tokens_details")
    assert whole == merged
