"""`service_tier`: what is flex runs in the batch class, held open and bounded; everything else is an online request."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2
import openai
import pytest
from prometheus_client import REGISTRY

from engine.presence import Presence
from engine.protocol import BATCH_PRIORITY, ONLINE_PRIORITY, EngineRequest, EngineResult
from engine.registry import Registry
from engine.simulated import SimulatedEngine, SimulatedFaults
from server.openai.flex import Flex
from server.openai.service_tier import stamped_frame
from server.settings import ServerSettings
from tests.server.houses import CHAT, EMBED, PROFILE, House, HouseBuilder, listening, until

ASKED: dict[str, dict[str, Any]] = {
    "/chat/completions": {"messages": [{"role": "user", "content": "Hello"}]},
    "/completions": {"prompt": "Hello"},
    "/responses": {"input": "Hello"},
}
LONG = {"max_tokens": 2_000, "min_tokens": 2_000}


def engine(name: str = "sim", **options: Any) -> SimulatedEngine:
    return SimulatedEngine(name, PROFILE, **options)


class Seen(SimulatedEngine):
    """The simulated engine, with a note of what it is asked."""

    def __init__(self) -> None:
        super().__init__("sim", PROFILE)
        self.asked: list[EngineRequest] = []

    async def generate(self, request: EngineRequest) -> EngineResult:
        self.asked.append(request)
        return await super().generate(request)


def flex_requests(outcome: str) -> float:
    labels = {"endpoint": "/v1/chat/completions", "outcome": outcome}
    return REGISTRY.get_sample_value("nightbatch_flex_requests_total", labels) or 0.0


@pytest.mark.parametrize("path", ASKED)
async def test_a_flex_request_runs_in_the_batch_class_and_is_answered_as_flex(
    open_house: HouseBuilder, path: str
) -> None:
    sim = Seen()
    house = await open_house(engines=[sim])
    async with house.http() as http:
        for tier in ("flex", None):
            answer = await http.post(path, json={"model": CHAT, **ASKED[path], "service_tier": tier})
            assert answer.status_code == 200, answer.text
            if tier:
                assert answer.json()["service_tier"] == tier
    assert [request.priority for request in sim.asked] == [BATCH_PRIORITY, ONLINE_PRIORITY]


@pytest.mark.parametrize("asked", ["auto", "default", "scale", "priority", "fast", "ultrafast"])
async def test_every_other_tier_of_openais_is_served_and_answered_as_default(
    open_house: HouseBuilder, asked: str
) -> None:
    sim = Seen()
    house = await open_house(engines=[sim])
    async with house.http() as http:
        for path, fields in ASKED.items():
            answer = await http.post(path, json={"model": CHAT, **fields, "service_tier": asked})
            assert (answer.status_code, answer.json()["service_tier"]) == (200, "default")
    assert {request.priority for request in sim.asked} == {ONLINE_PRIORITY}


@pytest.mark.parametrize(("tier", "code"), [("gold", "invalid_value"), ("", "invalid_value"), (7, "invalid_type")])
async def test_a_tier_that_is_none_is_refused_with_those_that_are(house: House, tier: object, code: str) -> None:
    async with house.http() as http:
        for path, fields in ASKED.items():
            response = await http.post(path, json={"model": CHAT, **fields, "service_tier": tier})
            error = response.json()["error"]
            assert (response.status_code, error["param"], error["code"]) == (400, "service_tier", code)
        assert "'flex'" in error["message"] or code == "invalid_type"


async def test_an_embedding_knows_no_tiers(house: House) -> None:
    async with house.http() as http:
        answer = await http.post("/embeddings", json={"model": EMBED, "input": "a", "service_tier": "gold"})
    assert answer.status_code == 200
    assert "service_tier" not in answer.json()


async def test_the_sdk_streams_flex_and_sees_the_tier_on_every_chunk(house: House) -> None:
    async with house.sdk() as client:
        stream = await client.chat.completions.create(
            model=CHAT,
            messages=[{"role": "user", "content": "Hello"}],
            service_tier="flex",
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
    assert len(chunks) > 1
    assert {chunk.service_tier for chunk in chunks} == {"flex"}
    assert chunks[-1].usage is not None


def test_frames_that_are_no_object_stay_as_they_are() -> None:
    broken = b'data: {"a": \n\n', b'data: {"a":1}\ndata: {"b":2}\n\n'  # what an upstream may send
    for frame in (b"data: [DONE]\n\n", b": keep-alive\n\n", b"", *broken):
        assert stamped_frame(frame, "flex") == frame
    assert stamped_frame(b'data: {"a": 1}\n\n', None) == b'data: {"a": 1}\n\n'
    stamped = stamped_frame(b'data: {"a":[1, 2],"service_tier":null}\n\n', "flex")
    assert stamped == b'data: {"a":[1, 2],"service_tier":"flex"}\n\n'


async def test_a_flex_request_is_no_presence_and_is_counted_apart(open_house: HouseBuilder) -> None:
    slow = engine(time_scale=20.0)
    house = await open_house(engines=[slow])
    before = flex_requests("disconnected")
    body = {"model": CHAT, **ASKED["/chat/completions"], **LONG, "service_tier": "flex"}
    async with listening(house.app) as url, httpx2.AsyncClient() as http:
        call = asyncio.create_task(http.post(f"{url}/chat/completions", json=body))
        await until(lambda: slow.load().running == 1)
        assert house.registry.presence.anywhere() == 0
        assert REGISTRY.get_sample_value("nightbatch_flex_inflight") == 1
        call.cancel()
        await until(lambda: slow.load().running == 0)
        await until(lambda: flex_requests("disconnected") == before + 1)
    assert REGISTRY.get_sample_value("nightbatch_flex_inflight") == 0


async def test_too_many_flex_requests_are_429_and_online_ones_are_not(open_house: HouseBuilder) -> None:
    slow = engine(time_scale=20.0)
    house = await open_house(engines=[slow], settings=ServerSettings(flex_inflight_max=1))
    body = {"model": CHAT, **ASKED["/chat/completions"], **LONG}
    async with (
        listening(house.app) as url,
        httpx2.AsyncClient() as http,
        openai.AsyncOpenAI(api_key="any", base_url=url, max_retries=0) as client,
    ):
        calls = [asyncio.create_task(http.post(f"{url}/chat/completions", json={**body, "service_tier": "flex"}))]
        await until(lambda: slow.load().running == 1)
        with pytest.raises(openai.RateLimitError, match=r"Resource unavailable.*flex_inflight_max") as caught:
            await client.chat.completions.create(
                model=CHAT, messages=[{"role": "user", "content": "Hello"}], service_tier="flex"
            )
        assert caught.value.code == "resource_unavailable"
        assert 1 <= int(caught.value.response.headers["retry-after"]) <= 120
        calls.append(asyncio.create_task(http.post(f"{url}/chat/completions", json=body)))
        await until(lambda: slow.load().running == 2)
        for call in calls:
            call.cancel()
        await until(lambda: slow.load().running == 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_engine_without_room_refuses_flex_as_resource_unavailable(
    open_house: HouseBuilder, stream: bool
) -> None:
    house = await open_house(engines=[engine(faults=SimulatedFaults(overload_probability=1))])
    body = {"model": CHAT, **ASKED["/chat/completions"], "service_tier": "flex", "stream": stream}
    async with house.http() as http:
        response = await http.post("/chat/completions", json=body)
    assert (response.status_code, response.json()["error"]["code"]) == (429, "resource_unavailable")
    assert int(response.headers["retry-after"]) >= 1


async def test_beside_an_online_request_few_flex_ones_run_and_the_others_wait_for_their_turn(
    open_house: HouseBuilder,
) -> None:
    slow = engine(time_scale=20.0)
    house = await open_house(engines=[slow], settings=ServerSettings(flex_beside_online_max=1))
    chat = ASKED["/chat/completions"]
    async with listening(house.app) as url, httpx2.AsyncClient(timeout=60) as http:
        online = asyncio.create_task(http.post(f"{url}/chat/completions", json={"model": CHAT, **chat, **LONG}))
        await until(lambda: slow.load().running == 1)
        flex = [
            asyncio.create_task(
                http.post(f"{url}/chat/completions", json={"model": CHAT, **chat, **LONG, "service_tier": "flex"})
            )
            for _ in range(3)
        ]
        await until(lambda: house.app.state.api.flex.held == 3)
        await until(lambda: slow.load().running == 2)
        flex[0].cancel()  # the one that runs makes way for the next
        await until(lambda: house.app.state.api.flex.held == 2)
        await until(lambda: slow.load().running == 2)
        online.cancel()
        await until(lambda: slow.load().running == 2 and house.registry.presence.anywhere() == 0)
        for call in flex:
            call.cancel()
        await until(lambda: slow.load().running == 0)


async def test_a_flex_request_that_never_has_its_turn_is_429(open_house: HouseBuilder) -> None:
    house = await open_house(settings=ServerSettings(flex_beside_online_max=1, flex_wait_seconds_max=0.05))
    gate: Flex = house.app.state.api.flex
    body = {"model": CHAT, **ASKED["/chat/completions"], "service_tier": "flex"}
    async with house.http() as http:
        with house.registry.presence.online("sim"), gate.running("sim"):
            response = await http.post("/chat/completions", json=body)
        assert (response.status_code, response.json()["error"]["code"]) == (429, "resource_unavailable")
        assert (await http.post("/chat/completions", json=body)).status_code == 200
    assert gate.held == 0


async def test_flex_goes_to_the_engine_beside_which_nobody_types(open_house: HouseBuilder) -> None:
    house = await open_house(engines=[engine("a"), engine("b")], settings=ServerSettings(flex_beside_online_max=1))
    gate: Flex = house.app.state.api.flex
    body = {"model": CHAT, **ASKED["/chat/completions"], "service_tier": "flex"}
    async with house.http() as http:
        with house.registry.presence.online("a"), gate.running("a"):
            for _ in range(4):
                assert (await http.post("/chat/completions", json=body)).status_code == 200


def test_flex_requests_are_counted_by_device() -> None:
    devices = {"chat": frozenset({"cpu"}), "embed": frozenset({"cpu"}), "other": frozenset({"cuda:0"})}
    registry = Registry([engine(name) for name in devices], presence=Presence(devices))
    gate = Flex(registry, ServerSettings(flex_beside_online_max=1))
    with gate.running("embed"):
        assert all(map(gate.is_open, devices))
        with registry.presence.online("chat"):
            assert [gate.is_open(name) for name in devices] == [False, False, True]
    with registry.presence.online("chat"):
        assert all(map(gate.is_open, devices))


async def test_who_waits_is_woken_when_the_last_online_request_ends() -> None:
    registry = Registry([engine()])
    gate = Flex(registry, ServerSettings())
    with registry.presence.online("sim"):
        waiting = asyncio.create_task(gate.changed())
        await asyncio.sleep(0)
        assert not waiting.done()
    await asyncio.wait_for(waiting, 5)


async def test_a_flex_answer_that_is_refused_has_no_tier(house: House) -> None:
    async with house.http() as http:
        response = await http.post(
            "/chat/completions", json={"model": CHAT, "messages": "text", "service_tier": "flex"}
        )
    assert response.status_code == 400
    assert set(json.loads(response.content)) == {"error"}
