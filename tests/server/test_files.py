"""The Files API: what an upload, a list, a download and a deletion do, and what they refuse."""

from __future__ import annotations

import gzip
import re
from typing import Any

import openai
import pytest
from openai.types import FileObject

from server.openai.content import disposition
from server.settings import DAY_SECONDS, ServerSettings
from server.tenants import Tenants
from store import markers
from store.settings import MIB, StoreSettings
from tests.server.houses import House, HouseBuilder, form, line


async def upload(house: House, data: bytes, *, purpose: str = "batch", filename: str = "in.jsonl") -> dict[str, Any]:
    async with house.http() as http:
        response = await http.post("/files", files=form(data, purpose=purpose, filename=filename))
    assert response.status_code == 200, response.text
    body = response.json()
    assert isinstance(body, dict)
    return body


async def refused(house: House, **request: Any) -> tuple[int, dict[str, Any]]:
    async with house.http() as http:
        response = await http.post("/files", **request)
    assert house.leftovers() == []
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return response.status_code, error


async def test_an_upload_is_processed_at_once_and_comes_back_unchanged(house: House) -> None:
    data = b"".join(line(f"row-{number}") for number in range(50))
    async with house.sdk() as client:
        file = await client.files.create(file=("nightly.jsonl", data), purpose="batch")
        assert re.fullmatch(r"file-[0-9A-Za-z]{22}", file.id)
        assert (file.bytes, file.filename, file.purpose) == (len(data), "nightly.jsonl", "batch")
        assert file.status == "processed"
        assert file.expires_at == file.created_at + 30 * DAY_SECONDS
        assert await client.files.retrieve(file.id) == file
        assert await client.files.wait_for_processing(file.id, poll_interval=0) == file
        content = await client.files.content(file.id)
        assert content.read() == data


async def test_raw_bytes_are_called_upload(house: House) -> None:
    async with house.sdk() as client:
        assert (await client.files.create(file=line("a"), purpose="batch")).filename == "upload"


async def test_the_file_may_come_before_its_purpose(house: House) -> None:
    data = line("a") + line("b")
    async with house.http() as http:
        response = await http.post("/files", files=form(data, file_first=True))
    record = await house.store.files.get("default", response.json()["id"])
    assert record is not None
    assert record.summary is not None
    assert record.summary.lines == 2


async def test_a_file_that_turns_out_to_be_no_batch_input_is_kept_without_an_index(house: House) -> None:
    async with house.http() as http:
        response = await http.post("/files", files=form(b"\x00\xff not lines", purpose="user_data", file_first=True))
    assert response.status_code == 200
    record = await house.store.files.get("default", response.json()["id"])
    assert record is not None
    assert record.summary is None
    assert record.expires_at is None
    assert "x-nightbatch-line-errors" not in response.headers


async def test_broken_lines_are_counted_in_a_header_and_do_not_refuse_the_upload(house: House) -> None:
    data = line("a") + b"{broken\n" + line("a") + b"\xff\xfe\n" + line("b")
    async with house.http() as http:
        response = await http.post("/files", files=form(data))
    assert response.status_code == 200
    assert response.json()["status"] == "processed"
    assert response.headers["x-nightbatch-line-errors"] == "3"


REFUSALS: list[tuple[str, dict[str, Any], str, str]] = [
    ("no multipart", {"content": b"{}", "headers": {"content-type": "application/json"}}, "file", "missing"),
    ("nothing at all", {}, "file", "missing"),
    ("no boundary", {"content": b"x", "headers": {"content-type": "multipart/form-data"}}, "file", "missing"),
    ("no file part", {"files": [*form(None), ("other", ("x", b"data"))]}, "file", "missing"),
    ("empty file", {"files": form(b"")}, "file", "empty_file"),
    ("no purpose", {"files": form(line("a"), purpose=None)}, "purpose", "missing"),
    ("unknown purpose", {"files": form(line("a"), purpose="world-peace")}, "purpose", "invalid_value"),
    ("unknown purpose last", {"files": form(line("a"), purpose="no", file_first=True)}, "purpose", "invalid_value"),
    ("two files", {"files": form(line("a")) + form(line("b"), purpose=None)}, "file", "duplicate"),
    ("two purposes", {"files": form(None) + form(line("b"))}, "purpose", "duplicate"),
    ("a long purpose", {"files": form(line("a"), purpose="p" * 20_000)}, "purpose", "invalid_value"),
]


async def test_a_bad_form_is_refused_by_field(house: House) -> None:
    for case, options, param, code in REFUSALS:
        status, error = await refused(house, **options)
        assert (status, error["param"]) == (400, param), case
        assert error["code"].startswith(code), case
        assert f"'{param}'" in error["message"]
        assert len(error["message"]) < 600


async def test_a_form_that_stops_short_leaves_nothing(house: House) -> None:
    body = (
        b'--B\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + line("a") * 50_000
    )
    headers = {"content-type": "multipart/form-data; boundary=B"}
    status, error = await refused(house, content=body, headers=headers)
    assert (status, error["code"]) == (400, "invalid_multipart")
    assert str(len(body)) in error["message"]


BAD_EXPIRIES: list[tuple[dict[str, str], str]] = [
    ({"expires_after[anchor]": "created_at"}, "expires_after[seconds]"),
    ({"expires_after[seconds]": "7200"}, "expires_after[anchor]"),
    ({"expires_after[anchor]": "yesterday", "expires_after[seconds]": "7200"}, "expires_after[anchor]"),
    ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "3599"}, "expires_after[seconds]"),
    ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "2592001"}, "expires_after[seconds]"),
    ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "soon"}, "expires_after[seconds]"),
    ({"expires_after": '{"anchor": "created_at", "seconds": 7200}'}, "expires_after"),
]


async def test_a_bad_expiry_is_refused_by_field(house: House) -> None:
    for fields, param in BAD_EXPIRIES:
        status, error = await refused(house, files=form(line("a")), data=fields)
        assert (status, error["param"]) == (400, param), fields


async def test_an_expiry_in_bracket_form_counts_from_the_creation(house: House) -> None:
    async with house.sdk() as client:
        file = await client.files.create(
            file=line("a"), purpose="user_data", expires_after={"anchor": "created_at", "seconds": 7200}
        )
    assert file.expires_at == file.created_at + 7200


async def test_lists_are_cursor_pages_in_both_orders(house: House) -> None:
    ids = [(await upload(house, line(str(number))))["id"] for number in range(3)]
    other = (await upload(house, b"x", purpose="user_data"))["id"]
    async with house.http() as http:
        first = (await http.get("/files", params={"limit": 2})).json()
        assert [file["id"] for file in first["data"]] == [other, ids[2]]
        assert (first["object"], first["has_more"]) == ("list", True)
        assert (first["first_id"], first["last_id"]) == (other, ids[2])
        rest = (await http.get("/files", params={"limit": 2, "after": first["last_id"]})).json()
        assert [file["id"] for file in rest["data"]] == [ids[1], ids[0]]
        assert rest["has_more"] is False
        ascending = (await http.get("/files", params={"order": "asc", "purpose": "batch"})).json()
        assert [file["id"] for file in ascending["data"]] == ids
        nothing = (await http.get("/files", params={"after": "file-unknown"})).json()
        assert nothing == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


async def test_the_sdk_pages_through_every_file_once(house: House) -> None:
    ids = {(await upload(house, line(str(number))))["id"] for number in range(5)}
    async with house.sdk() as client:
        seen = [file.id async for file in client.files.list(limit=2)]
    assert len(seen) == len(ids)
    assert set(seen) == ids


async def test_bad_list_parameters_are_named(house: House) -> None:
    async with house.http() as http:
        for param, value in (("limit", 0), ("limit", 10_001), ("limit", "x"), ("order", "random")):
            response = await http.get("/files", params={param: value})
            assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_deleting_a_file_removes_its_bytes(house: House) -> None:
    file = await upload(house, line("a"))
    assert house.leftovers() != []
    async with house.sdk() as client:
        deleted = await client.files.delete(file["id"])
        assert (deleted.id, deleted.object, deleted.deleted) == (file["id"], "file", True)
        assert house.leftovers() == []
        for call in (client.files.retrieve, client.files.content, client.files.delete):
            with pytest.raises(openai.NotFoundError, match=file["id"]):
                await call(file["id"])


async def test_a_file_that_a_batch_reads_cannot_be_deleted(house: House) -> None:
    file = await upload(house, line("a"))
    async with house.sdk(retries=2) as client:
        batch = await client.batches.create(
            input_file_id=file["id"], endpoint="/v1/chat/completions", completion_window="24h"
        )
        with pytest.raises(openai.ConflictError, match=batch.id) as caught:
            await client.files.delete(file["id"])
        assert caught.value.response.headers["x-should-retry"] == "false"
        assert (await client.files.retrieve(file["id"])).id == file["id"]


async def test_a_range_gives_exactly_those_bytes(house: House) -> None:
    data = bytes(range(100))
    file = await upload(house, data, purpose="user_data")
    ranges = {
        "bytes=0-9": (0, 10), "bytes=5-": (5, 100), "bytes=-7": (93, 100), "bytes=90-1000": (90, 100),
        "bytes=-1000": (0, 100),
    }  # fmt: skip
    async with house.http() as http:
        for asked, (start, stop) in ranges.items():
            response = await http.get(f"/files/{file['id']}/content", headers={"range": asked})
            assert (response.status_code, response.content) == (206, data[start:stop]), asked
            assert response.headers["content-range"] == f"bytes {start}-{stop - 1}/100"
            assert response.headers["content-length"] == str(stop - start)
            assert "content-encoding" not in response.headers


async def test_a_range_beyond_the_end_is_416(house: House) -> None:
    file = await upload(house, b"0123456789", purpose="user_data")
    async with house.http() as http:
        response = await http.get(f"/files/{file['id']}/content", headers={"range": "bytes=10-"})
    assert response.status_code == 416
    assert response.headers["content-range"] == "bytes */10"
    assert response.json()["error"]["code"] == "range_not_satisfiable"


async def test_content_is_compressed_only_when_asked_and_without_a_range(house: House) -> None:
    data = b"".join(line(str(number)) for number in range(5_000))
    file = await upload(house, data)
    async with house.http() as http:
        url = f"/files/{file['id']}/content"
        plain = await http.get(url, headers={"accept-encoding": "identity"})
        assert plain.content == data
        assert plain.headers["content-length"] == str(len(data))
        assert plain.headers["content-type"] == "application/octet-stream"
        assert "content-encoding" not in plain.headers
        async with http.stream("GET", url, headers={"accept-encoding": "gzip"}) as packed:
            assert packed.headers["content-encoding"] == "gzip"
            raw = b"".join([chunk async for chunk in packed.aiter_raw()])
        assert len(raw) < len(data) / 5
        assert gzip.decompress(raw) == data
        ranged = await http.get(url, headers={"accept-encoding": "gzip", "range": "bytes=0-99"})
        assert ranged.content == data[:100]


async def test_a_client_that_has_the_file_gets_304(house: House) -> None:
    file = await upload(house, line("a"))
    async with house.http() as http:
        url = f"/files/{file['id']}/content"
        etag = (await http.get(url)).headers["etag"]
        for known in (etag, f'W/{etag}, "another"', "*"):
            assert (await http.get(url, headers={"if-none-match": known})).status_code == 304
        stale = await http.get(url, headers={"range": "bytes=0-1", "if-range": '"another"'})
        assert stale.status_code == 200


async def test_a_name_with_quotes_and_line_breaks_stays_inside_its_header(house: House) -> None:
    name = 'ev"il\\\r\nx-injected: 1\u2603.jsonl'
    header = disposition(name)
    assert "\r" not in header
    assert "\n" not in header
    assert header.isascii()
    file = await upload(house, b"abc", purpose="user_data", filename="snow\u2603.txt")
    assert file["filename"] == "snow\u2603.txt"
    async with house.http() as http:
        response = await http.get(f"/files/{file['id']}/content")
    assert "filename*=UTF-8''snow%E2%98%83.txt" in response.headers["content-disposition"]


async def test_a_full_disk_refuses_with_507_and_keeps_nothing(house: House) -> None:
    house.free_bytes[0] = 0
    status, error = await refused(house, files=form(line("a")))
    assert (status, error["code"], error["type"]) == (507, "disk_full", "server_error")
    assert str(house.folder) not in error["message"]
    house.free_bytes[0] = 1 << 50
    await upload(house, line("a"))


async def test_a_client_does_not_repeat_an_upload_that_a_full_disk_refused(house: House) -> None:
    house.free_bytes[0] = 0
    async with house.sdk(retries=2) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.files.create(file=line("a"), purpose="batch")
    assert caught.value.request.headers["x-stainless-retry-count"] == "0"


async def test_too_large_an_upload_names_the_limit_and_the_setting(open_house: HouseBuilder) -> None:
    house = await open_house(
        settings=ServerSettings(upload_bytes_max=MIB), store_settings=StoreSettings(upload_bytes_max=MIB)
    )
    status, error = await refused(house, files=form(b"x" * (2 * MIB)))
    assert (status, error["param"], error["code"]) == (413, "file", "file_too_large")
    assert str(MIB) in error["message"]
    assert "upload_mib_max" in error["message"]


async def test_the_store_counts_bytes_that_no_header_declared(open_house: HouseBuilder) -> None:
    house = await open_house(store_settings=StoreSettings(upload_bytes_max=MIB))
    status, error = await refused(house, files=form(b"x" * (2 * MIB)))
    assert (status, error["code"]) == (413, "file_too_large")


async def test_a_tenant_sees_only_its_own_files(open_house: HouseBuilder) -> None:
    house = await open_house(tenants=Tenants.from_keys({"key-a": "a", "key-b": "b"}))
    async with house.sdk(api_key="key-a") as ours, house.sdk(api_key="key-b") as theirs:
        file: FileObject = await ours.files.create(file=line("a"), purpose="batch")
        assert [found.id async for found in ours.files.list()] == [file.id]
        assert [found.id async for found in theirs.files.list()] == []
        for call in (theirs.files.retrieve, theirs.files.content, theirs.files.delete):
            with pytest.raises(openai.NotFoundError):
                await call(file.id)
        with pytest.raises(openai.BadRequestError) as caught:
            await theirs.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
        assert caught.value.param == "input_file_id"


async def test_broken_json_on_line_47000_is_counted_and_located(house: House) -> None:
    lines = [line(str(number)) for number in range(50_000)]
    lines[46_999] = b'{"custom_id": "x", broken\n'
    async with house.http() as http:
        response = await http.post("/files", files=form(b"".join(lines)))
    assert response.headers["x-nightbatch-line-errors"] == "1"
    record = await house.store.files.get("default", response.json()["id"])
    assert record is not None
    assert record.summary is not None
    assert [error.line for error in record.summary.errors] == [47_000]


async def test_a_line_of_50_mb_is_an_error_of_that_line(house: House) -> None:
    async with house.http() as http:
        response = await http.post("/files", files=form(line("a") + b"x" * 50_000_000 + b"\n" + line("b")))
    assert response.status_code == 200
    record = await house.store.files.get("default", response.json()["id"])
    assert record is not None
    assert record.summary is not None
    assert [(error.code, error.line) for error in record.summary.errors] == [("line_too_long", 2)]


async def test_the_walk_of_an_upload_and_a_batch_passes_its_markers_in_order(house: House) -> None:
    passed: list[str] = []
    markers.install(passed.append)
    try:
        async with house.sdk() as client:
            file = await client.files.create(file=line("a"), purpose="batch")
            await client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    finally:
        markers.install(None)
    assert passed == ["upload.received", "upload.indexed", "upload.committed", "batch.created"]
