"""Pause and resume over rows that nobody runs."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from server.tenants import Tenants
from store.records import HELD, BatchStatus, NewShard
from tests.server.houses import House, HouseBuilder
from tests.server.test_batches import create


async def post(house: House, batch_id: str, verb: str, **options: Any) -> httpx2.Response:
    async with house.http() as http:
        return await http.post(f"/batches/{batch_id}/{verb}", **options)


async def running(house: House) -> str:
    batch_id = str((await create(house))["id"])
    assert await house.store.work.admit(batch_id, shards=[NewShard(0, 0, 1, "m", "r")], total=1, at=1)
    return batch_id


async def test_a_pause_shows_at_once_and_a_second_one_changes_nothing(house: House) -> None:
    batch_id = await running(house)
    first = (await post(house, batch_id, "pause")).json()
    assert (first["status"], first["pause_reason"]) == ("in_progress", HELD)
    assert first["paused_at"] is not None
    second = await post(house, batch_id, "pause", content=b"", headers={"content-type": "application/json"})
    assert (second.status_code, second.json()) == (200, first)
    assert len(house.wakes) == 3


async def test_a_resumed_batch_shows_no_pause_and_resuming_again_is_no_error(house: House) -> None:
    batch_id = await running(house)
    await post(house, batch_id, "pause")
    for _ in range(2):
        resumed = await post(house, batch_id, "resume")
        assert resumed.status_code == 200
        assert (resumed.json()["paused_at"], resumed.json()["pause_reason"]) == (None, None)


async def test_a_batch_that_is_validating_can_be_paused_and_shows_it_when_it_is_in_progress(house: House) -> None:
    batch_id = str((await create(house))["id"])
    assert (await post(house, batch_id, "pause")).status_code == 200
    record = await house.store.batches.get("default", batch_id)
    assert record is not None
    assert record.held_at is not None
    assert record.paused_at is None


@pytest.mark.parametrize("verb", ["pause", "resume"])
async def test_a_batch_that_ends_can_be_neither_paused_nor_resumed(house: House, verb: str) -> None:
    batch_id = await running(house)
    await house.store.batches.move(batch_id, expected={BatchStatus.IN_PROGRESS}, to=BatchStatus.CANCELLING, at=1)
    refused = await post(house, batch_id, verb)
    assert refused.status_code == 409
    assert refused.headers["x-should-retry"] == "false"
    error = refused.json()["error"]
    assert error["code"] == "batch_not_pausable"
    assert f"Cannot {verb} batch {batch_id}: its status is 'cancelling'" in error["message"]


async def test_a_paused_batch_can_be_cancelled_and_its_pause_ends_with_it(house: House) -> None:
    batch_id = await running(house)
    await post(house, batch_id, "pause")
    cancelled = (await post(house, batch_id, "cancel")).json()
    assert (cancelled["status"], cancelled["paused_at"]) == ("cancelling", None)


@pytest.mark.parametrize("verb", ["pause", "resume"])
async def test_an_unknown_batch_is_a_404(house: House, verb: str) -> None:
    refused = await post(house, "batch_none", verb)
    assert refused.status_code == 404
    assert refused.json()["error"]["code"] == "batch_not_found"


async def test_another_tenants_batch_is_a_404(open_house: HouseBuilder) -> None:
    house = await open_house(tenants=Tenants.from_keys({"a": "one", "b": "two"}))
    async with house.http(headers={"authorization": "Bearer a"}) as http:
        file = await http.post("/files", files={"purpose": (None, "batch"), "file": ("a.jsonl", b"{}\n")})
        made = await http.post(
            "/batches",
            json={
                "input_file_id": file.json()["id"],
                "endpoint": "/v1/chat/completions",
                "completion_window": "24h",
            },
        )
    async with house.http(headers={"authorization": "Bearer b"}) as http:
        refused = await http.post(f"/batches/{made.json()['id']}/pause")
    assert refused.status_code == 404
