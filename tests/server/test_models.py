from __future__ import annotations

import dataclasses

import openai
import pytest

from engine.simulated import SimulatedEngine, default_models
from tests.server.houses import CHAT, PROFILE, House, HouseBuilder

SLASHED = "HuggingFaceTB/SmolLM2-135M-Instruct"


async def test_models_are_listed_with_what_they_are_for(house: House) -> None:
    async with house.sdk() as client:
        models = [model async for model in client.models.list()]
    chat = next(model for model in models if model.id == CHAT)
    extra = chat.model_extra or {}
    assert chat.object == "model"
    assert extra["kind"] == "generate"
    assert "/v1/chat/completions" in extra["endpoints"]
    assert extra["revision"]
    assert extra["max_model_len"] == PROFILE.context_tokens_max


async def test_an_id_with_a_slash_is_found_however_it_is_encoded(open_house: HouseBuilder) -> None:
    model = dataclasses.replace(default_models(PROFILE)[0], id=SLASHED)
    house = await open_house(engines=[SimulatedEngine("sim", PROFILE, models=[model])])
    async with house.sdk() as client:
        assert (await client.models.retrieve(SLASHED)).id == SLASHED
    async with house.http() as http:
        assert (await http.get(f"/models/{SLASHED}")).json()["id"] == SLASHED
        assert (await http.get(f"http://server/models/{SLASHED.replace('/', '%2F')}")).json()["id"] == SLASHED


async def test_an_alias_gives_the_model_that_it_stands_for(open_house: HouseBuilder) -> None:
    house = await open_house(aliases={"gpt-4o-mini": CHAT})
    async with house.sdk() as client:
        assert (await client.models.retrieve("gpt-4o-mini")).id == CHAT


async def test_an_unknown_model_names_the_served_ones(house: House) -> None:
    async with house.sdk() as client:
        with pytest.raises(openai.NotFoundError, match=CHAT) as caught:
            await client.models.retrieve("nobody")
    assert caught.value.code == "model_not_found"


async def test_a_name_that_nobody_serves_does_not_make_the_answer_large(house: House) -> None:
    async with house.http() as http:
        response = await http.get("/models/" + "x" * 5_000)
    assert response.status_code == 404
    assert len(response.content) < 2_000
