"""The Batches API over rows that nobody runs: create, retrieve, list, cancel."""

from __future__ import annotations

import re
from typing import Any

import openai
import pytest
from openai.types import Batch

from engine.protocol import ModelInfo
from server.settings import ServerSettings, Tier
from server.tenants import Tenants
from store.records import BatchStatus, LineError, NewShard, OnDeadline
from tests.server.houses import CHAT, House, HouseBuilder, form, line

OURS = {
    "paused_at", "pause_reason", "deadline_at", "deadline_missed_at", "warnings", "on_invalid_line", "parent_batch_id",
    "eta_at", "lines_per_s", "tokens_per_s", "reuse", "reused_requests", "quality",
}  # fmt: skip
KEYS = set(Batch.model_fields) | OURS


async def upload(house: House, data: bytes | None = None, purpose: str = "batch") -> str:
    async with house.http() as http:
        response = await http.post("/files", files=form(data or line("a"), purpose=purpose))
    return str(response.json()["id"])


async def create(house: House, **fields: Any) -> dict[str, Any]:
    body = {"endpoint": "/v1/chat/completions", "completion_window": "24h", **fields}
    body.setdefault("input_file_id", await upload(house))
    async with house.http() as http:
        response = await http.post("/batches", json=body)
    assert response.status_code == 200, response.text
    batch = response.json()
    assert isinstance(batch, dict)
    return batch


async def test_a_new_batch_has_every_key_with_explicit_nulls(house: House) -> None:
    batch = await create(house, metadata={"team": "search"}, unknown_field=[1, 2])
    assert set(batch) == KEYS
    assert re.fullmatch(r"batch_[0-9a-f]{32}", batch["id"])
    assert batch["object"] == "batch"
    assert batch["status"] == "validating"
    assert batch["expires_at"] == batch["created_at"] + 86_400
    assert batch["model"] == CHAT
    assert batch["metadata"] == {"team": "search"}
    assert batch["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
    assert batch["usage"] == {
        "input_tokens": 0,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 0,
    }
    nulls = {name for name in batch if name.endswith("_at")} - {"created_at", "expires_at"}
    assert all(batch[name] is None for name in nulls | {"errors", "output_file_id", "error_file_id", "pause_reason"})
    assert len(house.wakes) == 1


async def test_the_sdk_creates_retrieves_lists_and_cancels(house: House) -> None:
    file_id = await upload(house)
    async with house.sdk() as client:
        made = await client.batches.create(
            input_file_id=file_id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            output_expires_after={"anchor": "created_at", "seconds": 3600},
        )
        assert await client.batches.retrieve(made.id) == made
        assert [batch.id async for batch in client.batches.list()] == [made.id]
        cancelled = await client.batches.cancel(made.id)
        assert cancelled.status == "cancelling"
        assert cancelled.cancelling_at is not None
        again = await client.batches.cancel(made.id)
        assert again == cancelled
    assert len(house.wakes) == 2
    record = await house.store.batches.get("default", made.id)
    assert record is not None
    assert record.output_expires_after_seconds == 3600


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"input_file_id": None}, "input_file_id", "missing_required_parameter"),
    ({"endpoint": None}, "endpoint", "missing_required_parameter"),
    ({"completion_window": None}, "completion_window", "missing_required_parameter"),
    ({"input_file_id": 7}, "input_file_id", "invalid_type"),
    ({"input_file_id": "file-unknown"}, "input_file_id", "file_not_found"),
    ({"endpoint": "/v1/images/generations"}, "endpoint", "invalid_value"),
    ({"endpoint": "/v1/chat/completions/"}, "endpoint", "invalid_value"),
    ({"completion_window": "25h"}, "completion_window", "invalid_value"),
    ({"metadata": "text"}, "metadata", "invalid_type"),
    ({"metadata": {"a": 1}}, "metadata", "invalid_type"),
    ({"metadata": {str(number): "" for number in range(17)}}, "metadata", "object_above_max_properties"),
    ({"metadata": {"k" * 65: ""}}, "metadata", "string_above_max_length"),
    ({"metadata": {"k": "v" * 513}}, "metadata", "string_above_max_length"),
    ({"output_expires_after": 7200}, "output_expires_after", "invalid_type"),
    ({"output_expires_after": {"seconds": 7200}}, "output_expires_after.anchor", "missing_required_parameter"),
    ({"output_expires_after": {"anchor": "created_at"}}, "output_expires_after.seconds", "missing_required_parameter"),
    (
        {"output_expires_after": {"anchor": "created_at", "seconds": 60}},
        "output_expires_after.seconds",
        "integer_out_of_range",
    ),
    (
        {"output_expires_after": {"anchor": "created_at", "seconds": True}},
        "output_expires_after.seconds",
        "invalid_type",
    ),
]


async def test_a_bad_create_is_a_400_that_names_the_field(house: House) -> None:
    good = {"input_file_id": await upload(house), "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    async with house.http() as http:
        for change, param, code in BAD:
            body = {name: value for name, value in {**good, **change}.items() if value is not None}
            response = await http.post("/batches", json=body)
            error = response.json()["error"]
            assert (response.status_code, error["param"], error["code"]) == (400, param, code), change
            assert error["type"] == "invalid_request_error"
        assert (await http.get("/batches")).json()["data"] == []
    assert house.wakes == []


async def test_an_unknown_window_lists_the_known_ones(open_house: HouseBuilder) -> None:
    settings = ServerSettings(tiers={"24h": Tier(86_400), "weekend": Tier(200_000, OnDeadline.CONTINUE)})
    house = await open_house(settings=settings)
    async with house.http() as http:
        body = {"input_file_id": await upload(house), "endpoint": "/v1/embeddings", "completion_window": "1h"}
        response = await http.post("/batches", json=body)
    assert "'24h', 'weekend'" in response.json()["error"]["message"]
    batch = await create(house, completion_window="weekend")
    assert batch["expires_at"] - batch["created_at"] == 200_000
    record = await house.store.batches.get("default", batch["id"])
    assert record is not None
    assert record.on_deadline is OnDeadline.CONTINUE


async def test_the_input_must_have_been_uploaded_for_batches(house: House) -> None:
    async with house.http() as http:
        body = {
            "input_file_id": await upload(house, purpose="user_data"),
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        }
        error = (await http.post("/batches", json=body)).json()["error"]
    assert (error["param"], "user_data" in error["message"]) == ("input_file_id", True)


async def test_models_are_pinned_with_their_revision_when_the_batch_is_created(open_house: HouseBuilder) -> None:
    house = await open_house(aliases={"gpt-4o-mini": CHAT})
    data = line("a") + line("b", model="gpt-4o-mini") + line("c", model="nobody-serves-this")
    batch = await create(house, input_file_id=await upload(house, data))
    served = house.registry.resolve(CHAT)
    assert isinstance(served, ModelInfo)
    record = await house.store.batches.get("default", batch["id"])
    assert record is not None
    assert set(record.models) == {CHAT, "gpt-4o-mini"}
    assert {(pinned.id, pinned.revision) for pinned in record.models.values()} == {(CHAT, served.revision)}


async def test_broken_lines_do_not_refuse_a_batch(house: House) -> None:
    batch = await create(house, input_file_id=await upload(house, b"not json\n" + line("a")))
    assert batch["status"] == "validating"


async def test_errors_are_a_list_with_their_total_and_short_in_lists(house: House) -> None:
    batch = await create(house)
    errors = [LineError("invalid_json_line", "This line is broken.", line=number + 1) for number in range(50)]
    await house.store.batches.fail(batch["id"], errors=errors, errors_total=47_000, at=batch["created_at"] + 1)
    async with house.sdk() as client:
        failed = await client.batches.retrieve(batch["id"])
    assert failed.status == "failed"
    assert failed.failed_at == batch["created_at"] + 1
    assert failed.errors is not None
    assert failed.errors.data is not None
    assert [error.line for error in failed.errors.data] == list(range(1, 51))
    async with house.http() as http:
        listed = (await http.get("/batches")).json()["data"][0]["errors"]
    assert listed["total"] == 47_000
    assert len(listed["data"]) == 10
    assert listed["data"][0] == {
        "code": "invalid_json_line",
        "message": "This line is broken.",
        "param": None,
        "line": 1,
    }


async def test_cancel_takes_an_empty_body_labelled_json(house: House) -> None:
    batch = await create(house)
    async with house.http() as http:
        response = await http.post(
            f"/batches/{batch['id']}/cancel", content=b"", headers={"content-type": "application/json"}
        )
    assert response.status_code == 200
    assert response.json()["status"] == "cancelling"


async def test_an_ended_batch_cannot_be_cancelled_and_clients_do_not_retry(house: House) -> None:
    batch = await create(house)
    await house.store.batches.fail(batch["id"], errors=[], errors_total=0, at=1)
    async with house.sdk(retries=2) as client:
        with pytest.raises(openai.ConflictError, match="failed") as caught:
            await client.batches.cancel(batch["id"])
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert caught.value.request.headers["x-stainless-retry-count"] == "0"


@pytest.mark.parametrize("status", [BatchStatus.IN_PROGRESS, BatchStatus.FINALIZING])
async def test_a_running_batch_can_be_cancelled(house: House, status: BatchStatus) -> None:
    batch = await create(house)
    await house.store.work.admit(batch["id"], shards=[NewShard(0, 0, 1, CHAT, "r")], total=1, at=1)
    if status is BatchStatus.FINALIZING:
        moved = await house.store.batches.move(batch["id"], expected={BatchStatus.IN_PROGRESS}, to=status, at=2)
        assert moved is not None
    async with house.sdk() as client:
        assert (await client.batches.cancel(batch["id"])).status == "cancelling"


async def test_lists_are_newest_first_and_paged(house: House) -> None:
    ids = [(await create(house))["id"] for _ in range(5)]
    async with house.sdk() as client:
        assert [batch.id async for batch in client.batches.list(limit=2)] == ids[::-1]
    async with house.http() as http:
        page = (await http.get("/batches", params={"limit": 2})).json()
        assert (page["has_more"], page["first_id"], page["last_id"]) == (True, ids[4], ids[3])
        end = (await http.get("/batches", params={"after": ids[0]})).json()
        assert (end["data"], end["has_more"]) == ([], False)
        over = await http.get("/batches", params={"limit": 101})
        assert over.status_code == 400
        assert over.json()["error"]["code"] == "integer_above_max_value"


async def test_an_unknown_batch_is_404(house: House) -> None:
    async with house.sdk() as client:
        for call in (client.batches.retrieve, client.batches.cancel):
            with pytest.raises(openai.NotFoundError, match="No batch found with id 'batch_x'"):
                await call("batch_x")


async def test_a_tenant_sees_only_its_own_batches(open_house: HouseBuilder) -> None:
    house = await open_house(tenants=Tenants.from_keys({"key-a": "a", "key-b": "b"}))
    async with house.sdk(api_key="key-a") as ours, house.sdk(api_key="key-b") as theirs:
        file = await ours.files.create(file=line("a"), purpose="batch")
        batch = await ours.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        assert [found.id async for found in theirs.batches.list()] == []
        for call in (theirs.batches.retrieve, theirs.batches.cancel):
            with pytest.raises(openai.NotFoundError):
                await call(batch.id)
