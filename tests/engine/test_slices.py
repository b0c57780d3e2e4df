"""A divided request has the answer that it would have had whole."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.answers import error_result
from engine.merging import Unmergeable, join, merge, read_part
from engine.protocol import CHAT_COMPLETIONS, COMPLETIONS, EMBEDDINGS, RERANK, SCORE, EngineRequest, EngineResult, Usage
from engine.simulated import PROFILES, SimulatedEngine
from engine.slices import Slices, split

PROFILE = PROFILES["cpu-135m"]
CHAT, EMBED = "simulated-cpu-135m", "simulated-cpu-135m-embed"
TOO_LONG = "far too long " * 1_000

texts = st.sampled_from(["", "a", "word", "two words", "ä ö ü, 漢字", 'quoted "text", [1]', "line\nbreak"])
tokens = st.lists(st.integers(0, 2**31), min_size=1, max_size=5)
sizes = st.integers(1, 60)
limits = st.integers(1, 20)


def lists_of(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return sizes.flatmap(lambda size: st.lists(parts, min_size=size, max_size=size))


def encode(body: dict[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode()


def cut(endpoint: str, body: dict[str, Any], limit: int) -> Slices:
    slices = split(endpoint, encode(body), limit)
    assert slices is not None
    return slices


async def whole_and_merged(
    model: str, endpoint: str, body: dict[str, Any], limit: int
) -> tuple[EngineResult, EngineResult] | None:
    """The answer to the request, and the one made of the answers to its slices; None when it is not cut."""
    slices = split(endpoint, encode(body), limit)
    if slices is None:
        return None
    engine = SimulatedEngine("sim", PROFILE)
    await engine.start()
    bodies = [encode(body), *(slices.body(no) for no in range(len(slices)))]
    requests = [EngineRequest(f"r{no}", model, endpoint, text) for no, text in enumerate(bodies)]
    whole, *apart = await asyncio.gather(*map(engine.generate, requests))
    await engine.stop()
    return whole, merge(slices, apart)


def check(model: str, endpoint: str, body: dict[str, Any], limit: int, *, sub_requests: int) -> None:
    found = asyncio.run(whole_and_merged(model, endpoint, body, limit))
    if found is None:
        assert sub_requests <= limit or len(body.get("prompt", ())) == 1
        return
    whole, merged = found
    assert without_id(merged.body) == without_id(whole.body)
    assert (merged.status_code, merged.usage) == (whole.status_code, whole.usage)
    assert b"\n" not in merged.body


def without_id(body: bytes) -> list[tuple[str, Any]]:
    """The fields in their order, but for the id."""
    return [(name, value) for name, value in json.loads(body).items() if name != "id"]


embedding_options = st.fixed_dictionaries(
    {}, optional={"encoding_format": st.sampled_from(["float", "base64"]), "dimensions": st.integers(1, 8)}
)


@given(st.one_of(lists_of(texts | st.just(TOO_LONG)), lists_of(tokens)), embedding_options, limits)
@settings(max_examples=60, deadline=None)
def test_divided_embeddings_are_those_of_the_whole(inputs: list[Any], options: dict[str, Any], limit: int) -> None:
    check(EMBED, EMBEDDINGS, {"model": "m", "input": inputs, **options}, limit, sub_requests=len(inputs))


completion_options = st.fixed_dictionaries(
    {"max_tokens": st.integers(1, 6)}, optional={"echo": st.booleans(), "seed": st.integers(0, 9)}
)


@given(st.one_of(lists_of(texts | st.just(TOO_LONG)), lists_of(tokens)), st.integers(1, 5), completion_options, limits)
@settings(max_examples=60, deadline=None)
def test_divided_completions_are_those_of_the_whole(
    prompts: list[Any], n: int, options: dict[str, Any], limit: int
) -> None:
    body = {"model": "m", "prompt": prompts, "n": n, **options}
    check(CHAT, COMPLETIONS, body, limit, sub_requests=len(prompts) * n)


score_names = st.sampled_from([("text_1", "text_2"), ("queries", "documents"), ("queries", "items")])


@given(score_names, lists_of(texts.filter(len)), st.sampled_from(["one", "list of one", "as many"]), limits)
@settings(max_examples=60, deadline=None)
def test_divided_scores_are_those_of_the_whole(
    names: tuple[str, str], documents: list[str], left: str, limit: int
) -> None:
    lefts: dict[str, Any] = {"one": "a word", "list of one": ["a word"], "as many": list(reversed(documents))}
    body = {names[0]: lefts[left], names[1]: documents}
    check(EMBED, SCORE, body, limit, sub_requests=len(documents))


@given(lists_of(texts), st.none() | st.integers(0, 70), limits)
@settings(max_examples=60, deadline=None)
def test_a_divided_ranking_is_that_of_the_whole(documents: list[str], top_n: int | None, limit: int) -> None:
    top = {} if top_n is None else {"top_n": top_n}
    check(EMBED, RERANK, {"query": "two words", "documents": documents, **top}, limit, sub_requests=len(documents))


@given(sizes, limits, st.integers(1, 5))
def test_slices_hold_every_part_once_and_keep_the_limit(parts: int, limit: int, n: int) -> None:
    prompts = [f"prompt {no}" for no in range(parts)]
    body = {"prompt": prompts, "n": n, "temperature": 0}
    slices = split(COMPLETIONS, encode(body), limit)
    if slices is None:
        return
    bodies = [json.loads(slices.body(no)) for no in range(len(slices))]
    assert [prompt for one in bodies for prompt in one["prompt"]] == prompts
    assert all({**one, "prompt": prompts} == body for one in bodies)
    counts = [slices.sub_requests(no) for no in range(len(slices))]
    assert sum(counts) == parts * n
    assert max(counts) <= max(limit, n)
    assert max(counts) - min(counts) <= n
    assert sum(slices.shares()) >= 0.999
    assert [slices.first_item(no + 1) - slices.first_item(no) for no in range(len(slices) - 1)] == counts[:-1]
    assert all(start < stop for start, stop in pairwise(slices.starts))


INPUTS = [f"text {no}" for no in range(10)]


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        (CHAT_COMPLETIONS, {"messages": [{"role": "user", "content": "hello"}], "n": 10}),
        (COMPLETIONS, {"prompt": "one prompt", "n": 10}),
        (COMPLETIONS, {"prompt": list(range(10))}),
        (COMPLETIONS, {"prompt": INPUTS, "n": 0}),
        (COMPLETIONS, {"prompt": INPUTS, "n": "3"}),
        (COMPLETIONS, {"prompt": INPUTS, "prompt_embeds": ["YQ=="] * 10}),
        (EMBEDDINGS, {"input": "one text"}),
        (EMBEDDINGS, {"input": list(range(10))}),
        (EMBEDDINGS, {"input": []}),
        (EMBEDDINGS, {"input": [*INPUTS, [1, 2]]}),
        (EMBEDDINGS, {"input": [*INPUTS, None]}),
        (EMBEDDINGS, {"input": [{"role": "user", "content": text} for text in INPUTS]}),
        (EMBEDDINGS, {"input": INPUTS, "messages": []}),
        (EMBEDDINGS, {"input": INPUTS, "encoding_format": "bytes"}),
        (EMBEDDINGS, {"input": INPUTS[:2]}),
        (SCORE, {"text_1": INPUTS, "text_2": "one"}),
        (SCORE, {"text_1": INPUTS[:3], "text_2": INPUTS}),
        (SCORE, {"text_1": "one", "text_2": INPUTS, "documents": INPUTS}),
        (SCORE, {"text_2": INPUTS}),
        (RERANK, {"query": "one", "documents": "one"}),
        (RERANK, {"query": "one", "documents": INPUTS, "top_n": -1}),
        (RERANK, {"query": "one", "documents": INPUTS, "top_n": None}),
        (RERANK, {"query": "one", "documents": [*INPUTS, 3]}),
        (RERANK, {"query": "one"}),
        ("/v1/responses", {"input": INPUTS}),
    ],
)
def test_what_is_small_or_odd_stays_whole(endpoint: str, body: dict[str, Any]) -> None:
    assert split(endpoint, encode(body), 2) is None


@pytest.mark.parametrize("body", [b"", b"[1]", b'{"input": [', b'{"input": "\xff"}', b'{"input": [' + b"[" * 2_000])
def test_what_is_no_request_stays_whole(body: bytes) -> None:
    assert split(EMBEDDINGS, body, 2) is None


def answer(items: list[dict[str, Any]], **head: Any) -> EngineResult:
    return EngineResult(200, encode({"id": "x", "data": items, **head}), Usage(prompt_tokens=3))


def embedded(count: int, **head: Any) -> EngineResult:
    return answer([{"index": index, "embedding": [index]} for index in range(count)], **head)


def test_the_first_refusal_by_position_is_the_answer_as_it_is() -> None:
    slices = cut(EMBEDDINGS, {"input": INPUTS}, 2)
    refusals = [error_result(400, f"input[{no}] is bad") for no in range(2)]
    assert merge(slices, [embedded(2), refusals[0], embedded(2), refusals[1], embedded(2)]) is refusals[0]


def test_parts_may_come_in_any_order_and_their_items_too() -> None:
    slices = cut(EMBEDDINGS, {"input": INPUTS}, 4)
    turned = [answer(list(reversed(json.loads(embedded(slices.sub_requests(no)).body)["data"]))) for no in range(3)]
    merged = join(slices, [read_part(slices, no, turned[no]) for no in (2, 0, 1)])
    assert [item["index"] for item in json.loads(merged.body)["data"]] == list(range(10))
    assert merged.usage == Usage(prompt_tokens=9)


def test_usage_and_meta_are_summed_and_the_rest_is_the_first_ones() -> None:
    slices = cut(EMBEDDINGS, {"input": INPUTS}, 5)
    usage = {"prompt_tokens": 3, "total_tokens": 3, "details": {"cached_tokens": 1}}
    meta = {"api_version": {"version": "2", "is_deprecated": False}, "billed_units": {"search_units": 1}}
    merged = merge(slices, [embedded(5, model="m", usage=usage, meta=meta), embedded(5, usage=usage, meta=meta)])
    fields = json.loads(merged.body)
    assert fields["usage"] == {"prompt_tokens": 6, "total_tokens": 6, "details": {"cached_tokens": 2}}
    assert fields["meta"] == {**meta, "billed_units": {"search_units": 2}}
    assert (fields["id"], fields["model"]) == ("x", "m")


def test_a_ranking_shows_the_best_of_all_slices_and_equals_in_their_order() -> None:
    slices = cut(RERANK, {"query": "q", "documents": INPUTS[:6], "top_n": 4}, 2)
    assert all("top_n" not in json.loads(slices.body(no)) for no in range(3))
    scores = [[0.5, 0.1], [0.9, 0.5], [0.5, 0.2]]
    results = [
        EngineResult(200, encode({"results": [{"index": i, "relevance_score": s} for i, s in enumerate(pair)]}))
        for pair in scores
    ]
    found = json.loads(merge(slices, results).body)["results"]
    assert [(item["index"], item["relevance_score"]) for item in found] == [(2, 0.9), (0, 0.5), (3, 0.5), (4, 0.5)]


def shorter(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return items[:-1]


def repeated(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [items[0], *items[:-1]]


def nameless(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"embedding": []} for _ in items]


@pytest.mark.parametrize("spoil", [shorter, repeated, nameless])
def test_an_answer_that_does_not_fit_its_slice_is_not_merged(
    spoil: Callable[[list[dict[str, Any]]], list[dict[str, Any]]],
) -> None:
    slices = cut(EMBEDDINGS, {"input": INPUTS}, 5)
    items = spoil(json.loads(embedded(5).body)["data"])
    with pytest.raises(Unmergeable, match="slice 1"):
        merge(slices, [embedded(5), answer(items)])


@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"data": 3}', b'{"data": [', b'{"data": [3]}'])
def test_an_answer_that_cannot_be_read_is_not_merged(body: bytes) -> None:
    slices = cut(EMBEDDINGS, {"input": INPUTS}, 5)
    with pytest.raises(Unmergeable, match="slice 0"):
        merge(slices, [EngineResult(200, body), embedded(5)])
