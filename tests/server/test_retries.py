"""Limits of retries and merging, over rows that nobody runs."""

from __future__ import annotations

from dataclasses import replace

from server.openai.merged import RETRIES_MAX
from store.records import LineError, NewBatch, OnDeadline
from tests.server.houses import House
from tests.server.test_batches import create


async def test_more_retries_than_can_be_merged_are_refused_by_number(house: House) -> None:
    root = await create(house)
    await house.store.batches.fail(root["id"], errors=[LineError("x", "x")], errors_total=1, at=1)
    retry = NewBatch(
        id="",
        tenant="default",
        endpoint=root["endpoint"],
        input_file_id=root["input_file_id"],
        completion_window="24h",
        created_at=1,
        expires_at=2,
        on_deadline=OnDeadline.EXPIRE,
        models={},
        parent_batch_id=root["id"],
    )
    for number in range(RETRIES_MAX):
        await house.store.batches.create(replace(retry, id=f"batch_{number}"))
    async with house.http() as http:
        merged = await http.get(f"/batches/{root['id']}/merged")
        assert merged.headers["x-nightbatch-running-retries"] == str(RETRIES_MAX)
        await house.store.batches.create(replace(retry, id="batch_more", parent_batch_id="batch_0"))
        refused = await http.get(f"/batches/{root['id']}/merged")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "too_many_retries")
    assert str(RETRIES_MAX) in refused.json()["error"]["message"]
