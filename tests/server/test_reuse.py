"""What a create may say of sharing answers, and what a batch then says of it."""

from __future__ import annotations

from typing import Any

import pytest

from server.openai.shapes import BatchObject
from server.settings import ServerSettings
from store.records import Reuse
from tests.server.houses import House, HouseBuilder
from tests.server.test_batches import create, upload


@pytest.mark.parametrize(("asked", "said"), [("batch", "batch"), ("server", "server"), ("off", "off"), (None, "off")])
async def test_a_batch_shares_answers_as_it_asks_and_else_not(house: House, asked: str | None, said: str) -> None:
    batch = await create(house, reuse=asked)
    assert (batch["reuse"], batch["reused_requests"]) == (said, 0)
    async with house.http() as http:
        assert (await http.get(f"/batches/{batch['id']}")).json()["reuse"] == said


async def test_the_server_says_how_batches_share_that_do_not_say(open_house: HouseBuilder) -> None:
    house = await open_house(settings=ServerSettings(reuse=Reuse.SERVER))
    assert (await create(house))["reuse"] == "server"
    assert (await create(house, reuse="off"))["reuse"] == "off"


@pytest.mark.parametrize(
    ("asked", "code", "says"),
    [
        ("all", "invalid_value", "'off', 'batch', 'server'"),
        ("", "invalid_value", "'off', 'batch', 'server'"),
        (True, "invalid_type", "expected a string"),
        ({"scope": "batch"}, "invalid_type", "expected a string"),
    ],
)
async def test_another_way_to_share_is_refused_by_name(house: House, asked: Any, code: str, says: str) -> None:
    body = {"input_file_id": await upload(house), "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    async with house.http() as http:
        refused = await http.post("/batches", json={**body, "reuse": asked})
    error = refused.json()["error"]
    assert (refused.status_code, error["param"], error["code"]) == (400, "reuse", code)
    assert says in error["message"]


async def test_a_batch_says_how_many_lines_had_the_answer_of_another(house: House) -> None:
    batch = await create(house, reuse="batch")
    async with house.sdk() as client:
        seen = await client.batches.retrieve(batch["id"])
    assert seen.model_extra is not None
    assert seen.model_extra["reused_requests"] == 0
    assert "reused_requests" in BatchObject.model_fields
