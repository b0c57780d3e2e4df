"""Codes of errors that no other test names: each with the status that docs/api.md gives it."""

from __future__ import annotations

import gzip
from typing import Any

from engine.simulated import SimulatedEngine, SimulatedFaults
from server.openai.merged import RETRIES_MAX
from server.settings import KIB, ServerSettings
from store.records import NewBatch, OnDeadline
from tests.server.houses import CHAT, EMBED, PROFILE, House, HouseBuilder, form, line

MESSAGES = [{"role": "user", "content": "hello"}]


async def code_of(house: House, method: str, path: str, **request: Any) -> tuple[int, str]:
    async with house.http() as http:
        response = await http.request(method, path, **request)
    return response.status_code, response.json()["error"]["code"]


async def upload(house: House) -> str:
    async with house.http() as http:
        return str((await http.post("/files", files=form(line("a")))).json()["id"])


async def test_a_part_that_comes_twice_and_too_many_parts_are_told_apart(house: House) -> None:
    twice = form(line("a")) + form(line("b"), purpose=None)
    assert await code_of(house, "POST", "/files", files=twice) == (400, "duplicate_parameter")
    many = [(f"extra-{number}", (None, "x")) for number in range(40)]
    assert await code_of(house, "POST", "/files", files=many) == (400, "too_many_parts")


async def test_a_model_asked_for_what_it_cannot_do_and_a_schema_that_is_none_are_400(house: House) -> None:
    body: dict[str, Any] = {"model": EMBED, "messages": MESSAGES}
    assert await code_of(house, "POST", "/chat/completions", json=body) == (400, "endpoint_not_supported")
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no such type"}}}
    body = {"model": CHAT, "messages": MESSAGES, "response_format": schema}
    assert await code_of(house, "POST", "/chat/completions", json=body) == (400, "invalid_json_schema")


async def test_a_file_in_use_is_409_and_one_whose_bytes_are_gone_404(house: House) -> None:
    used = await upload(house)
    body = {"input_file_id": used, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    async with house.http() as http:
        assert (await http.post("/batches", json=body)).status_code == 200
    assert await code_of(house, "DELETE", f"/files/{used}") == (409, "file_in_use")
    gone = await upload(house)
    record = await house.store.files.get("default", gone)
    assert record is not None
    await house.store.blobs.delete(record.blob)
    assert await code_of(house, "GET", f"/files/{gone}/content") == (404, "not_found")


async def test_a_body_above_the_limit_is_413_and_a_full_engine_429(open_house: HouseBuilder) -> None:
    engine = SimulatedEngine("sim", PROFILE, faults=SimulatedFaults(overload_marker="too busy"))
    house = await open_house(engines=[engine], settings=ServerSettings(json_body_bytes_max=KIB))
    large = {"model": CHAT, "messages": MESSAGES, "user": "x" * 2 * KIB}
    assert await code_of(house, "POST", "/chat/completions", json=large) == (413, "request_too_large")
    busy = {"model": CHAT, "messages": [{"role": "user", "content": "too busy"}]}
    assert await code_of(house, "POST", "/chat/completions", json=busy) == (429, "rate_limit_exceeded")


UPLOAD = {"bytes": 4, "filename": "a.jsonl", "mime_type": "application/jsonl", "purpose": "user_data"}


async def begun(house: House, **changed: Any) -> str:
    async with house.http() as http:
        response = await http.post("/uploads", json={**UPLOAD, **changed})
    assert response.status_code == 200, response.text
    return f"/uploads/{response.json()['id']}"


async def part(house: House, upload: str, data: bytes) -> str:
    async with house.http() as http:
        response = await http.post(f"{upload}/parts", files={"data": ("part", data)})
    assert response.status_code == 200, response.text
    return str(response.json()["id"])


async def test_each_mistake_with_an_upload_has_a_code_of_its_own(open_house: HouseBuilder) -> None:
    house = await open_house(settings=ServerSettings(part_bytes_max=KIB))
    assert await code_of(house, "POST", "/uploads/upload_x/cancel") == (404, "upload_not_found")
    assert await code_of(house, "POST", "/uploads", json={**UPLOAD, "bytes": 0}) == (400, "integer_below_min_value")
    upload = await begun(house)
    for data, expected in ((b"", (400, "empty_part")), (b"x" * 2 * KIB, (413, "part_too_large"))):
        assert await code_of(house, "POST", f"{upload}/parts", files={"data": ("part", data)}) == expected
    half = await part(house, upload, b"ab")
    whole = [half, await part(house, upload, b"cd")]
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"part_ids": ["part_x"]}, "part_not_found"),
        ({"part_ids": [half, half]}, "duplicate_part"),
        ({"part_ids": [half]}, "bytes_mismatch"),
        ({"part_ids": whole, "md5": "0" * 32}, "md5_mismatch"),
    ]
    for body, code in wrong:
        assert await code_of(house, "POST", f"{upload}/complete", json=body) == (400, code)
    async with house.http() as http:
        assert (await http.post(f"{upload}/complete", json={"part_ids": whole})).json()["status"] == "completed"
    assert await code_of(house, "POST", f"{upload}/cancel") == (400, "upload_not_pending")


async def test_a_compressed_input_that_is_cut_off_is_400(house: House) -> None:
    torn = gzip.compress(line("a") * 1_000)[:-20]
    assert await code_of(house, "POST", "/files", files=form(torn, filename="in.jsonl.gz")) == (400, "corrupt_file")


async def test_more_retries_than_can_be_merged_are_400(house: House) -> None:
    file_id = await upload(house)
    body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    async with house.http() as http:
        parent_id = (await http.post("/batches", json=body)).json()["id"]
    await house.store.batches.fail(parent_id, errors=[], errors_total=0, at=1)
    for number in range(RETRIES_MAX + 1):
        await house.store.batches.create(
            NewBatch(
                id=f"batch_{number:032x}",
                tenant="default",
                endpoint="/v1/chat/completions",
                input_file_id=file_id,
                completion_window="24h",
                created_at=1,
                expires_at=2_000_000_000,
                on_deadline=OnDeadline.EXPIRE,
                models={},
                parent_batch_id=parent_id,
            )
        )
    assert await code_of(house, "GET", f"/batches/{parent_id}/merged") == (400, "too_many_retries")
