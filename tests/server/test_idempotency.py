"""A create that is sent again makes no second batch."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest

from server.settings import ServerSettings
from tests.server.houses import House, HouseBuilder
from tests.server.test_batches import upload

Body = dict[str, Any]


async def body(house: House, **fields: Any) -> Body:
    return {
        "input_file_id": await upload(house),
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        **fields,
    }


async def send(house: House, sent: Body, **headers: str) -> httpx2.Response:
    async with house.http() as http:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await http.post("/batches", json=sent, headers=named)


async def count(house: House) -> int:
    return len((await house.store.batches.list("default", after=None, limit=100)).data)


@pytest.mark.parametrize("place", ["header", "body", "both"])
async def test_the_same_key_and_body_give_the_same_batch(house: House, place: str) -> None:
    sent = await body(house, **({"idempotency_key": "k-1"} if place != "header" else {}))
    headers = {"idempotency_key": "k-1"} if place != "body" else {}
    first = await send(house, sent, **headers)
    again = await send(house, dict(reversed(sent.items())), **headers)
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json() == again.json()
    assert await count(house) == 1
    assert len(house.wakes) == 1


async def test_the_same_key_with_another_body_is_refused_and_not_retried(house: House) -> None:
    sent = await body(house)
    first = (await send(house, sent, idempotency_key="k")).json()
    refused = await send(house, {**sent, "metadata": {"a": "b"}}, idempotency_key="k")
    assert refused.status_code == 409
    assert refused.headers["x-should-retry"] == "false"
    error = refused.json()["error"]
    assert (error["code"], error["param"]) == ("idempotency_key_reused", "idempotency_key")
    assert first["id"] in error["message"]
    assert await count(house) == 1


async def test_without_a_key_two_creates_are_two_batches(house: House) -> None:
    sent = await body(house)
    assert (await send(house, sent)).json()["id"] != (await send(house, sent)).json()["id"]


async def test_a_client_that_says_it_repeats_gets_the_batch_of_its_first_try(house: House) -> None:
    sent = await body(house)
    first = (await send(house, sent, x_stainless_retry_count="0")).json()
    assert (await send(house, sent, x_stainless_retry_count="1")).json()["id"] == first["id"]
    other = await send(house, {**sent, "metadata": {"run": "2"}}, x_stainless_retry_count="2")
    assert other.json()["id"] != first["id"]


async def test_a_repetition_whose_first_try_never_arrived_makes_the_batch(house: House) -> None:
    assert (await send(house, await body(house), x_stainless_retry_count="2")).status_code == 200
    assert await count(house) == 1


async def test_a_repetition_long_afterwards_is_a_new_batch(open_house: HouseBuilder) -> None:
    house = await open_house(settings=ServerSettings(repeated_create_seconds=-1))
    sent = await body(house)
    first = (await send(house, sent)).json()
    assert (await send(house, sent, x_stainless_retry_count="1")).json()["id"] != first["id"]


async def test_of_many_at_once_with_one_key_one_makes_the_batch(house: House) -> None:
    sent = await body(house)
    answers = await asyncio.gather(*(send(house, sent, idempotency_key="k") for _ in range(12)))
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert await count(house) == 1


async def test_keys_of_two_tenants_do_not_meet(open_house: HouseBuilder) -> None:
    from server.tenants import Tenants

    house = await open_house(tenants=Tenants.from_keys({"a": "one", "b": "two"}))
    ids = set()
    for key in ("a", "b"):
        async with house.http(headers={"authorization": f"Bearer {key}"}) as http:
            file = await http.post("/files", files={"purpose": (None, "batch"), "file": ("a.jsonl", b"{}\n")})
            sent = {
                "input_file_id": file.json()["id"],
                "endpoint": "/v1/chat/completions",
                "completion_window": "24h",
                "idempotency_key": "same",
            }
            ids.add((await http.post("/batches", json=sent)).json()["id"])
    assert len(ids) == 2


@pytest.mark.parametrize("key", ["", "x" * 256, 7])
async def test_a_key_that_is_none_is_named(house: House, key: object) -> None:
    refused = await send(house, await body(house, idempotency_key=key))
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "idempotency_key"


async def test_two_different_keys_are_refused(house: House) -> None:
    refused = await send(house, await body(house, idempotency_key="a"), idempotency_key="b")
    assert refused.status_code == 400
    assert "name different keys" in refused.json()["error"]["message"]
