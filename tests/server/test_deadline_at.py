"""A deadline by the clock: what a create may ask for, and what it then says everywhere."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from server.openai.shapes import BatchObject
from server.settings import DAY_SECONDS, ServerSettings, Tier
from store.records import OnDeadline
from tests.server.houses import House, HouseBuilder
from tests.server.test_batches import create, upload

SOON = int(time.time()) + 5 * 3600


@pytest.mark.parametrize(
    "written",
    [
        SOON,
        datetime.fromtimestamp(SOON, UTC).isoformat(),
        datetime.fromtimestamp(SOON, UTC).isoformat().replace("+00:00", "Z"),
        datetime.fromtimestamp(SOON + 0.75, timezone(timedelta(hours=5, minutes=30))).isoformat(),
    ],
    ids=["seconds", "iso", "utc", "zone and fraction"],  # names with the time in them differ between workers
)
async def test_a_deadline_by_the_clock_stands_in_place_of_the_windows(house: House, written: object) -> None:
    batch = await create(house, deadline_at=written)
    assert (batch["deadline_at"], batch["expires_at"], batch["completion_window"]) == (SOON, SOON, "24h")
    async with house.http() as http:
        assert (await http.get(f"/batches/{batch['id']}")).json()["deadline_at"] == SOON


async def test_the_rest_of_the_tier_holds_beside_a_deadline_by_the_clock(open_house: HouseBuilder) -> None:
    house = await open_house(settings=ServerSettings(tiers={"calm": Tier(3600, OnDeadline.CONTINUE)}))
    batch = await create(house, completion_window="calm", deadline_at=SOON)
    record = await house.store.batches.get("default", batch["id"])
    assert record is not None
    assert (record.expires_at, record.on_deadline) == (SOON, OnDeadline.CONTINUE)


async def test_without_one_the_deadline_is_the_windows(house: House) -> None:
    for fields in ({}, {"deadline_at": None}):
        batch = await create(house, **fields)
        assert batch["deadline_at"] is None
        assert batch["expires_at"] == batch["created_at"] + DAY_SECONDS


BAD: list[tuple[Any, str, str]] = [
    (SOON - 24 * 3600, "invalid_value", "has passed already"),
    (0, "invalid_value", "has passed already"),
    (-(2**70), "invalid_value", "has passed already"),
    (SOON * 1000, "invalid_value", "not milliseconds"),
    (SOON + 367 * DAY_SECONDS, "invalid_value", "more than 366 days ahead"),
    (10**30, "invalid_value", "more than 366 days ahead"),
    (SOON + 0.5, "invalid_type", "expected Unix seconds"),
    (True, "invalid_type", "expected Unix seconds"),
    ({"hours": 3}, "invalid_type", "expected Unix seconds"),
    ([], "invalid_type", "expected Unix seconds"),
    ("", "invalid_value", "is no time"),
    ("07:00", "invalid_value", "is no time"),
    ("tomorrow", "invalid_value", "is no time"),
    (str(SOON), "invalid_value", "is no time"),
    ("2030-01-01", "invalid_value", "has no zone"),
    ("2030-01-01T07:00:00", "invalid_value", "has no zone"),
    ("2020-01-01T07:00:00Z", "invalid_value", "has passed already"),
    ("0001-01-01T00:00:00+14:00", "invalid_value", "has passed already"),
    ("9999-12-31T23:59:59-14:00", "invalid_value", "more than 366 days ahead"),
    ("2030-01-01T07:00:00+99:00", "invalid_value", "is no time"),
]


async def test_a_deadline_that_is_none_is_refused_by_name(house: House) -> None:
    body = {"input_file_id": await upload(house), "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    async with house.http() as http:
        for written, code, says in BAD:
            response = await http.post("/batches", json={**body, "deadline_at": written})
            error = response.json()["error"]
            assert (response.status_code, error["param"]) == (400, "deadline_at"), written
            assert error["code"] == code, (written, error)
            assert says in error["message"], (written, error)
        assert (await http.get("/batches")).json()["data"] == []


async def test_a_batch_shows_what_admission_warned_of(house: House) -> None:
    batch = await create(house)
    assert batch["warnings"] is None
    record = await house.store.batches.get("default", batch["id"])
    assert record is not None
    warning = {"code": "deadline_infeasible", "message": "8 h of window before the deadline, 31 h of work."}
    warned = replace(record, warnings=json.dumps([warning]))
    assert json.loads(BatchObject.of(warned).model_dump_json())["warnings"] == [warning]
