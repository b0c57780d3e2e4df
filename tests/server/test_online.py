"""The online endpoints over simulated engines: answers, streams, and what happens when an engine cannot."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from typing import Any

import httpx2
import openai
import pytest
from openai import OpenAI

from engine.bodies import prepare_body
from engine.protocol import ONLINE_PRIORITY, EngineRequest, EngineResult, EngineState
from engine.simulated import SimulatedEngine, SimulatedFaults
from server.settings import ServerSettings
from tests.server.houses import CHAT, EMBED, PROFILE, House, HouseBuilder, listening, until

POISON = b"drop dead"


def messages(text: str = "Hello") -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def engine(name: str, **options: Any) -> SimulatedEngine:
    return SimulatedEngine(name, PROFILE, **options)


async def test_a_chat_is_answered_and_streamed_alike(house: House) -> None:
    async with house.sdk() as client:
        whole = await client.chat.completions.create(model=CHAT, messages=messages())  # type: ignore[call-overload]
        text = whole.choices[0].message.content
        assert text
        parts = []
        stream = await client.chat.completions.create(model=CHAT, messages=messages(), stream=True)  # type: ignore[call-overload]
        async for chunk in stream:
            parts.extend(choice.delta.content or "" for choice in chunk.choices)
    assert "".join(parts) == text


async def test_the_synchronous_sdk_works_over_a_socket(house: House) -> None:
    def talk(url: str) -> tuple[str, list[str]]:
        with OpenAI(api_key="any", base_url=url, max_retries=0) as client:
            answer = client.chat.completions.create(model=CHAT, messages=messages())  # type: ignore[call-overload]
            return answer.choices[0].message.content, [model.id for model in client.models.list()]

    async with listening(house.app) as url:
        text, models = await asyncio.to_thread(talk, url)
    assert text
    assert CHAT in models


async def test_embeddings_come_in_the_encoding_that_the_body_asks_for(house: House) -> None:
    async with house.sdk(strict=False) as client:
        decoded = (await client.embeddings.create(model=EMBED, input=["one", "two"])).data
    async with house.http() as http:
        plain = (await http.post("/embeddings", json={"model": EMBED, "input": "one"})).json()
        packed = (
            await http.post("/embeddings", json={"model": EMBED, "input": "one", "encoding_format": "base64"})
        ).json()
    floats = plain["data"][0]["embedding"]
    raw = base64.b64decode(packed["data"][0]["embedding"])
    assert struct.unpack(f"<{len(floats)}f", raw) == pytest.approx(floats, rel=1e-6)
    assert decoded[0].embedding == pytest.approx(floats, rel=1e-6)
    assert len(decoded) == 2


@pytest.mark.parametrize("prefix", ["/v1", ""])
async def test_score_and_rerank_are_there_with_and_without_the_prefix(house: House, prefix: str) -> None:
    async with house.http() as http:
        base = f"http://server{prefix}"
        score = await http.post(f"{base}/score", json={"model": EMBED, "text_1": "a", "text_2": ["b", "c"]})
        rerank = await http.post(f"{base}/rerank", json={"model": EMBED, "query": "a", "documents": ["b", "c"]})
    assert (score.status_code, rerank.status_code) == (200, 200)


async def test_an_unknown_model_is_404_with_the_line_that_would_serve_it(house: House) -> None:
    async with house.sdk() as client:
        with pytest.raises(openai.NotFoundError) as caught:
            await client.chat.completions.create(model="gpt-4o-mini", messages=messages())  # type: ignore[arg-type]
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
    assert f'[aliases]: "gpt-4o-mini" = "{house.registry.models()[0].id}"' in caught.value.message


async def test_an_alias_is_answered_by_its_model(open_house: HouseBuilder) -> None:
    house = await open_house(aliases={"gpt-4o-mini": CHAT})
    async with house.sdk() as client:
        answer = await client.chat.completions.create(model="gpt-4o-mini", messages=messages())  # type: ignore[arg-type]
    assert answer.model == CHAT


async def test_a_model_that_does_not_serve_the_endpoint_says_what_it_serves(house: House) -> None:
    async with house.sdk() as client:
        with pytest.raises(openai.BadRequestError, match=r"It serves: .*/v1/chat/completions") as caught:
            await client.embeddings.create(model=CHAT, input="x")
    assert caught.value.param == "model"


@pytest.mark.parametrize("stream", [False, True])
async def test_what_the_engine_refuses_is_passed_on(house: House, stream: bool) -> None:
    async with house.http() as http:
        response = await http.post("/chat/completions", json={"model": CHAT, "messages": "text", "stream": stream})
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/json"
    assert response.json()["error"]["type"] == "invalid_request_error"


BAD_BODIES: list[tuple[bytes, str]] = [
    (b"", "invalid_json"),
    (b"   ", "invalid_json"),
    (b"{broken", "invalid_json"),
    (b'{"model": "m"', "invalid_json"),
    (b"[1]", "invalid_type"),
    (b"null", "invalid_type"),
    (b'{"model": 7}', "invalid_type"),
    (b'{"model": "simulated-gpu-8b", "stream": "yes"}', "invalid_type"),
    (b'{"model": null}', "missing_required_parameter"),
    (b'{"messages": []}', "missing_required_parameter"),
    (b'{"model": "\xff"}', "invalid_type"),
    (b'{"\xff": 1}', "invalid_json"),
    (b"[" * 200_000, "invalid_type"),
    (b'{"a": ' * 200_000, "invalid_json"),
]


async def test_a_body_that_is_no_request_is_400(house: House) -> None:
    async with house.http() as http:
        for content, code in BAD_BODIES:
            response = await http.post("/chat/completions", content=content)
            assert (response.status_code, response.json()["error"]["code"]) == (400, code), content[:40]


async def test_broken_json_is_located(house: House) -> None:
    async with house.http() as http:
        response = await http.post("/chat/completions", content=b'{"model": nope}')
    assert "byte 11" in response.json()["error"]["message"]


async def test_a_body_of_another_type_is_415_and_one_too_large_is_413(open_house: HouseBuilder) -> None:
    house = await open_house(settings=ServerSettings(json_body_bytes_max=1_000))
    async with house.http() as http:
        form = await http.post("/chat/completions", data={"model": CHAT})
        assert (form.status_code, form.json()["error"]["code"]) == (415, "unsupported_content_type")
        large = await http.post("/chat/completions", json={"model": CHAT, "messages": messages("x" * 2_000)})
        assert large.status_code == 413

        async def undeclared() -> Any:
            for _ in range(3):
                yield b" " * 500

        unsized = await http.post("/chat/completions", content=undeclared())
        assert unsized.status_code == 413
    for response in (large, unsized):
        assert "1000 bytes ([server] json_body_mib_max)" in response.json()["error"]["message"]


async def test_no_engine_is_503_with_a_hint_that_clients_obey(open_house: HouseBuilder) -> None:
    house = await open_house(started=False)
    async with house.sdk() as client:
        with pytest.raises(openai.InternalServerError, match="engine sim is stopped") as caught:
            await client.chat.completions.create(model=CHAT, messages=messages())  # type: ignore[arg-type]
    assert caught.value.status_code == 503
    assert 0 < float(caught.value.response.headers["retry-after"]) <= 120


@pytest.mark.parametrize("stream", [False, True])
async def test_an_overloaded_engine_is_429_with_a_hint(open_house: HouseBuilder, stream: bool) -> None:
    house = await open_house(engines=[engine("sim", faults=SimulatedFaults(overload_probability=1))])
    async with house.sdk() as client:
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(model=CHAT, messages=messages(), stream=stream)  # type: ignore[call-overload]
    assert int(caught.value.response.headers["retry-after"]) >= 1


@pytest.mark.parametrize("stream", [False, True])
async def test_an_engine_that_dies_hands_the_request_to_another(open_house: HouseBuilder, stream: bool) -> None:
    dying = [engine(name, faults=SimulatedFaults(die_after_requests=1)) for name in ("a", "b")]
    healthy = engine("c")
    house = await open_house(engines=[dying[0], healthy])
    body = {"model": CHAT, "messages": messages(), "stream": stream}
    async with house.http() as http:
        for _ in range(2):  # whichever engine is asked first, one of the two requests meets the dying one
            response = await http.post("/chat/completions", json=body)
            assert response.status_code == 200
    assert dying[0].status().state is not EngineState.READY


async def test_a_request_that_kills_engines_is_not_sent_to_all_of_them(open_house: HouseBuilder) -> None:
    engines = [engine(name, faults=SimulatedFaults(poison=POISON.decode())) for name in "abcd"]
    house = await open_house(engines=engines)
    async with house.http() as http:
        response = await http.post("/chat/completions", json={"model": CHAT, "messages": messages(POISON.decode())})
    assert response.status_code == 503
    assert sum(engine.status().state is EngineState.READY for engine in engines) == 2


async def test_an_aborted_answer_is_no_answer(open_house: HouseBuilder) -> None:
    house = await open_house(engines=[engine("sim", faults=SimulatedFaults(abort_probability=1))])
    async with house.http() as http:
        response = await http.post("/chat/completions", json={"model": CHAT, "messages": messages()})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_unavailable")


async def test_a_stream_that_breaks_off_raises_in_the_client(open_house: HouseBuilder) -> None:
    slow = engine("sim", time_scale=1.0)
    house = await open_house(engines=[slow])
    async with (
        listening(house.app) as url,
        openai.AsyncOpenAI(api_key="any", base_url=url, max_retries=0) as client,
    ):
        stream = await client.chat.completions.create(  # type: ignore[call-overload]
            model=CHAT, messages=messages(), max_tokens=2_000, extra_body={"min_tokens": 2_000}, stream=True
        )
        await anext(stream)
        slow.kill()
        with pytest.raises(openai.APIError, match="broke off"):
            [chunk async for chunk in stream]


LONG = {"max_tokens": 2_000, "min_tokens": 2_000}
ENDLESS: list[tuple[str, dict[str, Any]]] = [
    ("/chat/completions", {"model": CHAT, "messages": messages(), **LONG}),
    ("/chat/completions", {"model": CHAT, "messages": messages(), **LONG, "stream": True}),
    ("/completions", {"model": CHAT, "prompt": "Hello", **LONG}),
    ("/completions", {"model": CHAT, "prompt": "Hello", **LONG, "stream": True}),
    ("/responses", {"model": CHAT, "input": "Hello " * 2_000, "max_output_tokens": 2_000}),
    ("/embeddings", {"model": EMBED, "input": ["hello " * 300] * 500}),
    ("/score", {"model": EMBED, "text_1": "a", "text_2": ["hello " * 300] * 500}),
    ("/rerank", {"model": EMBED, "query": "a", "documents": ["hello " * 300] * 500}),
]
"""Something that takes long, on each endpoint."""


@pytest.mark.parametrize(("path", "body"), ENDLESS)
async def test_a_client_that_goes_away_frees_its_slot(
    open_house: HouseBuilder, path: str, body: dict[str, Any]
) -> None:
    slow = engine("sim", time_scale=200.0)
    house = await open_house(engines=[slow])
    async with listening(house.app) as url, httpx2.AsyncClient() as http:
        call = asyncio.create_task(http.post(f"{url}{path}", json=body))
        await until(lambda: slow.load().running > 0)
        assert house.registry.presence.on_engine("sim") == 1
        call.cancel()
        await until(lambda: slow.load().running == 0)
        await until(lambda: house.registry.presence.on_engine("sim") == 0)


PRIORITIES: list[tuple[str, dict[str, Any]]] = [
    ("/chat/completions", {"model": CHAT, "messages": messages()}),
    ("/completions", {"model": CHAT, "prompt": "Hello"}),
    ("/responses", {"model": CHAT, "input": "Hello"}),
    ("/embeddings", {"model": EMBED, "input": "Hello"}),
    ("/score", {"model": EMBED, "text_1": "a", "text_2": "b"}),
    ("/rerank", {"model": EMBED, "query": "a", "documents": ["b"]}),
]


@pytest.mark.parametrize(("path", "body"), PRIORITIES)
async def test_no_client_sets_its_own_priority(open_house: HouseBuilder, path: str, body: dict[str, Any]) -> None:
    class Listening(SimulatedEngine):
        async def generate(self, request: EngineRequest) -> EngineResult:
            heard.append(request)
            return await super().generate(request)

    heard: list[EngineRequest] = []
    house = await open_house(engines=[Listening("sim", PROFILE)])
    async with house.http() as http:
        for priority in (-1_000, 1_000, "high", None):
            response = await http.post(path, json={**body, "priority": priority})
            assert response.status_code == 200, response.text
    assert {request.priority for request in heard} == {ONLINE_PRIORITY}
    for request in heard:
        prepared = prepare_body(request.body, model="m", endpoint=request.endpoint, priority=request.priority)
        assert json.loads(prepared)["priority"] == ONLINE_PRIORITY


async def test_a_stream_ends_with_done_and_is_labelled_as_events(house: House) -> None:
    async with house.http() as http:
        response = await http.post("/chat/completions", json={"model": CHAT, "messages": messages(), "stream": True})
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["x-request-id"].startswith("req_")
    frames = response.text.split("\n\n")
    assert frames[-2:] == ["data: [DONE]", ""]
    assert all(json.loads(frame.removeprefix("data: "))["object"] == "chat.completion.chunk" for frame in frames[:-2])
