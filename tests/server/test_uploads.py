"""Files in parts: what becomes one file, what is refused, and that nothing of an ended upload stays on disk."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler.actors.reaper import Reaper
from scheduler.settings import SchedulerSettings
from server.settings import ServerSettings
from server.tenants import Tenants
from store.parts import ENDED_KEPT_SECONDS
from store.settings import MIB, StoreSettings
from tests.server.houses import House, HouseBuilder, build_house, line

CONTENT = b"".join(line(f"row-{number}") for number in range(300))
PIECES = [CONTENT[start : start + 10_000] for start in range(0, len(CONTENT), 10_000)]


async def begin(http: httpx2.AsyncClient, size: int = len(CONTENT), **body: Any) -> str:
    whole = {"bytes": size, "filename": "in.jsonl", "mime_type": "application/jsonl", "purpose": "batch", **body}
    response = await http.post("/uploads", json=whole)
    assert response.status_code == 200, response.text
    upload_id = response.json()["id"]
    assert isinstance(upload_id, str)
    return upload_id


async def send(http: httpx2.AsyncClient, upload_id: str, data: bytes) -> str:
    response = await http.post(f"/uploads/{upload_id}/parts", files={"data": ("upload", data)})
    assert response.status_code == 200, response.text
    part_id = response.json()["id"]
    assert isinstance(part_id, str)
    return part_id


async def complete(http: httpx2.AsyncClient, upload_id: str, part_ids: list[str], **body: Any) -> httpx2.Response:
    return await http.post(f"/uploads/{upload_id}/complete", json={"part_ids": part_ids, **body})


def error_of(response: httpx2.Response) -> tuple[int, str | None, str]:
    error = response.json()["error"]
    return response.status_code, error["param"], error["code"]


def reaper(house: House, now: float) -> Reaper:
    return Reaper(house.store, SchedulerSettings(), now=lambda: now)


async def test_parts_sent_at_once_are_joined_in_the_order_asked_for_and_indexed(house: House) -> None:
    async with house.http() as http:
        upload_id = await begin(http)
        part_ids = await asyncio.gather(*(send(http, upload_id, piece) for piece in PIECES))
        done = await complete(http, upload_id, part_ids, md5=hashlib.md5(CONTENT).hexdigest())
        file = done.json()["file"]
        assert (done.json()["status"], file["bytes"], file["status"]) == ("completed", len(CONTENT), "processed")
        assert (await http.get(f"/files/{file['id']}/content")).content == CONTENT
        record = await house.store.files.get("default", file["id"])
        assert record is not None
        assert record.summary is not None
        assert (record.summary.lines, record.expires_at) == (300, file["created_at"] + 30 * 86_400)
        assert len(house.leftovers()) == 2  # the blob and its index
        await http.delete(f"/files/{file['id']}")
    assert house.leftovers() == []


async def test_parts_that_are_not_named_are_deleted(house: House) -> None:
    async with house.http() as http:
        upload_id = await begin(http)
        once = [await send(http, upload_id, piece) for piece in PIECES]
        for piece in PIECES[:3]:
            await send(http, upload_id, piece)  # what a client repeats that got no answer
        assert (await complete(http, upload_id, once)).status_code == 200
    assert len(house.leftovers()) == 2


async def test_a_repeated_completion_answers_with_the_same_file(house: House) -> None:
    async with house.http() as http:
        upload_id = await begin(http)
        part_ids = [await send(http, upload_id, piece) for piece in PIECES]
        answers = await asyncio.gather(*(complete(http, upload_id, part_ids) for _ in range(3)))
        assert len({answer.json()["file"]["id"] for answer in answers}) == 1
        assert len((await http.get("/files")).json()["data"]) == 1


@pytest.mark.parametrize("ending", ["complete", "cancel"])
async def test_an_ended_upload_takes_no_parts_and_no_other_end(house: House, ending: str) -> None:
    async with house.http() as http:
        upload_id = await begin(http)
        part_ids = [await send(http, upload_id, piece) for piece in PIECES]
        if ending == "complete":
            assert (await complete(http, upload_id, part_ids)).status_code == 200
        else:
            cancelled = await http.post(f"/uploads/{upload_id}/cancel", headers={"content-type": "application/json"})
            assert (cancelled.json()["status"], cancelled.json()["file"]) == ("cancelled", None)
            assert house.leftovers() == []
            assert error_of(await complete(http, upload_id, part_ids)) == (400, None, "upload_not_pending")
        late = await http.post(f"/uploads/{upload_id}/parts", files={"data": b"late"})
        assert error_of(late) == (400, None, "upload_not_pending")
        assert error_of(await http.post(f"/uploads/{upload_id}/cancel")) == (400, None, "upload_not_pending")


async def test_totals_orders_and_digests_that_do_not_fit_are_refused_and_cost_nothing(house: House) -> None:
    async with house.http() as http:
        upload_id = await begin(http)
        part_ids = [await send(http, upload_id, piece) for piece in PIECES]
        before = house.leftovers()
        for ids, extra, code in [
            (part_ids[:-1], {}, "bytes_mismatch"),
            ([*part_ids[:-1], part_ids[0]], {}, "duplicate_part"),
            ([*part_ids, "part_nobody"], {}, "part_not_found"),
            ([], {}, "invalid_value"),
            (part_ids, {"md5": hashlib.md5(b"other").hexdigest()}, "md5_mismatch"),
            (part_ids, {"md5": "short"}, "invalid_value"),
        ]:
            response = await complete(http, upload_id, ids, **extra)
            assert (response.status_code, response.json()["error"]["code"]) == (400, code)
        assert house.leftovers() == before
        assert (await complete(http, upload_id, part_ids)).status_code == 200


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"bytes": None}, "bytes", "missing_required_parameter"),
        ({"bytes": "12"}, "bytes", "invalid_type"),
        ({"bytes": 0}, "bytes", "integer_below_min_value"),
        ({"filename": ""}, "filename", "missing_required_parameter"),
        ({"mime_type": 7}, "mime_type", "invalid_type"),
        ({"purpose": "party"}, "purpose", "invalid_value"),
        ({"expires_after": {"anchor": "created_at", "seconds": 60}}, "expires_after.seconds", "integer_out_of_range"),
        ({"expires_after": 60}, "expires_after", "invalid_type"),
    ],
)
async def test_a_bad_create_is_refused_by_field(house: House, body: dict[str, Any], param: str, code: str) -> None:
    whole = {"bytes": 1, "filename": "in.jsonl", "mime_type": "application/jsonl", "purpose": "batch", **body}
    async with house.http() as http:
        assert error_of(await http.post("/uploads", json=whole)) == (400, param, code)


async def test_limits_of_uploads_and_parts_name_themselves(open_house: HouseBuilder) -> None:
    limits = ServerSettings(upload_bytes_max=4 * MIB, part_bytes_max=1000, upload_parts_max=2)
    house = await open_house(settings=limits)
    async with house.http() as http:
        whole = {"bytes": 5 * MIB, "filename": "in.jsonl", "mime_type": "text/plain", "purpose": "batch"}
        large = await http.post("/uploads", json=whole)
        assert error_of(large) == (413, "file", "file_too_large")
        assert "[store] upload_mib_max" in large.json()["error"]["message"]
        upload_id = await begin(http, 2000)
        part = await http.post(f"/uploads/{upload_id}/parts", files={"data": bytes(1001)})
        assert error_of(part) == (413, "data", "part_too_large")
        for _ in range(2):
            await send(http, upload_id, bytes(1000))
        third = await http.post(f"/uploads/{upload_id}/parts", files={"data": b"x"})
        assert error_of(third) == (400, None, "too_many_parts")
        assert len(house.leftovers()) == 2


async def test_a_part_needs_the_field_data_with_bytes(house: House) -> None:
    async with house.http() as http:
        upload_id = await begin(http)
        path = f"/uploads/{upload_id}/parts"
        assert error_of(await http.post(path, content=b"raw")) == (400, "data", "missing_required_parameter")
        assert error_of(await http.post(path, files={"file": b"x"})) == (400, "data", "missing_required_parameter")
        assert error_of(await http.post(path, files={"data": b""})) == (400, "data", "empty_part")
        twice = await http.post(path, files=[("data", b"x"), ("data", b"y")])
        assert error_of(twice) == (400, "data", "duplicate_parameter")
    assert house.leftovers() == []


async def test_another_tenant_sees_no_upload(open_house: HouseBuilder) -> None:
    keys = {hashlib.sha256(name.encode()).hexdigest(): name for name in ("ann", "bob")}
    house = await open_house(tenants=Tenants(keys))
    async with (
        house.http(headers={"authorization": "Bearer ann"}) as ann,
        house.http(headers={"authorization": "Bearer bob"}) as bob,
    ):
        upload_id = await begin(ann)
        part_id = await send(ann, upload_id, PIECES[0])
        for response in (
            await bob.post(f"/uploads/{upload_id}/parts", files={"data": b"x"}),
            await complete(bob, upload_id, [part_id]),
            await bob.post(f"/uploads/{upload_id}/cancel"),
        ):
            assert error_of(response) == (404, "id", "upload_not_found")


async def test_an_upload_expires_after_an_hour_and_its_parts_with_it(house: House) -> None:
    async with house.http() as http:
        upload_id = await begin(http)
        part_ids = [await send(http, upload_id, piece) for piece in PIECES]
        upload = await house.store.parts.get("default", upload_id)
        assert upload is not None
        assert upload.expires_at == upload.created_at + 3600
        await reaper(house, upload.expires_at - 1).reap()
        assert len(house.leftovers()) == len(PIECES)
        async with house.store.parts.completing(upload_id):
            await reaper(house, upload.expires_at).reap()
            assert len(house.leftovers()) == len(PIECES), "parts were taken from under their completion"
        await reaper(house, upload.expires_at).reap()
        assert house.leftovers() == []
        assert error_of(await complete(http, upload_id, part_ids)) == (400, None, "upload_not_pending")
        await reaper(house, upload.expires_at + ENDED_KEPT_SECONDS).reap()
        assert await house.store.parts.get("default", upload_id) is None


async def test_a_restart_in_the_middle_loses_no_part(tmp_path: Path) -> None:
    part_ids: list[str] = []
    async with AsyncExitStack() as stack:
        house = await build_house(tmp_path / "data", stack)
        async with house.http() as http:
            upload_id = await begin(http)
            part_ids += [await send(http, upload_id, piece) for piece in PIECES[:10]]
    async with AsyncExitStack() as stack:
        house = await build_house(tmp_path / "data", stack)
        async with house.http() as http:
            part_ids += [await send(http, upload_id, piece) for piece in PIECES[10:]]
            file = (await complete(http, upload_id, part_ids)).json()["file"]
            assert (await http.get(f"/files/{file['id']}/content")).content == CONTENT


async def test_a_compressed_input_in_parts_is_inflated_and_its_digest_is_of_what_was_sent(house: House) -> None:
    packed = gzip.compress(CONTENT)
    async with house.http() as http:
        upload_id = await begin(http, len(packed), filename="in.jsonl.gz")
        part_ids = [await send(http, upload_id, piece) for piece in (packed[:1], packed[1:700], packed[700:])]
        done = await complete(http, upload_id, part_ids, md5=hashlib.md5(packed).hexdigest().upper())
        file = done.json()["file"]
        assert (done.json()["bytes"], file["bytes"], file["filename"]) == (len(packed), len(CONTENT), "in.jsonl")
        assert (await http.get(f"/files/{file['id']}/content")).content == CONTENT


async def test_broken_lines_are_counted_at_completion(house: House) -> None:
    data = line("a") + b"{broken\n"
    async with house.http() as http:
        upload_id = await begin(http, len(data))
        done = await complete(http, upload_id, [await send(http, upload_id, data)])
    assert done.headers["x-nightbatch-line-errors"] == "1"


async def test_a_full_disk_refuses_a_part_and_keeps_the_others(house: House) -> None:
    async with house.http() as http:
        upload_id = await begin(http)
        await send(http, upload_id, PIECES[0])
        house.free_bytes[0] = 0
        full = await http.post(f"/uploads/{upload_id}/parts", files={"data": PIECES[1]})
        assert (full.status_code, full.json()["error"]["code"]) == (507, "disk_full")
    assert len(house.leftovers()) == 1


STEPS = st.lists(
    st.sampled_from(["file", "packed", "broken", "upload", "part", "complete", "cancel", "delete"]), max_size=20
)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
async def test_when_everything_is_deleted_nothing_is_left(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    async with AsyncExitStack() as stack:
        house = await build_house(
            tmp_path_factory.mktemp("data"), stack, started=False, store_settings=StoreSettings(index_workers_max=1)
        )
        async with house.http() as http:
            uploads: list[tuple[str, list[str]]] = []
            for step in steps:
                await _take(step, http, uploads)
            for upload_id, _ in uploads:
                await http.post(f"/uploads/{upload_id}/cancel")
            for file in (await http.get("/files")).json()["data"]:
                assert (await http.delete(f"/files/{file['id']}")).status_code == 200
        assert house.leftovers() == []


async def _take(step: str, http: httpx2.AsyncClient, uploads: list[tuple[str, list[str]]]) -> None:
    data = line("a")
    packed = {"file": data, "packed": gzip.compress(data), "broken": gzip.compress(data)[:-3]}
    if step in packed:
        await http.post("/files", files=[("file", ("in.jsonl", packed[step])), ("purpose", (None, "batch"))])
    elif step == "upload":
        uploads.append((await begin(http, 2 * len(data)), []))
    elif step == "delete":
        for file in (await http.get("/files", params={"limit": 1})).json()["data"]:
            await http.delete(f"/files/{file['id']}")
    elif uploads:
        upload_id, part_ids = uploads[-1]
        if step == "part":
            response = await http.post(f"/uploads/{upload_id}/parts", files={"data": data})
            part_ids.extend([response.json()["id"]] if response.status_code == 200 else [])
        elif step == "complete":
            await complete(http, upload_id, part_ids)
        else:
            await http.post(f"/uploads/{upload_id}/cancel")
