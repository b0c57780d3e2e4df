"""`strict_openai`: OpenAI's limits and rules for files, and what the server allows without it."""

from __future__ import annotations

from typing import Any

import pytest

from server.openai import strict
from server.settings import ServerSettings
from tests.server.houses import House, HouseBuilder, form, line

STRICT = ServerSettings(strict_openai=True)
WORDS = "Invalid file format for Batch API. Must be .jsonl"


async def refused(house: House, path: str, **request: Any) -> tuple[int, dict[str, Any]]:
    async with house.http() as http:
        response = await http.post(path, **request)
    assert house.leftovers() == []
    error = response.json()["error"]
    assert isinstance(error, dict)
    return response.status_code, error


@pytest.mark.parametrize("filename", ["in.txt", "upload", "in.jsonl.gz"])
@pytest.mark.parametrize("file_first", [False, True])
async def test_strict_batch_inputs_are_called_jsonl(open_house: HouseBuilder, filename: str, file_first: bool) -> None:
    house = await open_house(settings=STRICT)
    status, error = await refused(house, "/files", files=form(line("a"), filename=filename, file_first=file_first))
    assert status == 400
    assert error == {"message": WORDS, "type": "invalid_request_error", "param": None, "code": None}
    create = {"bytes": 9, "filename": filename, "mime_type": "application/jsonl", "purpose": "batch"}
    status, error = await refused(house, "/uploads", json=create)
    assert (status, error["message"]) == (400, WORDS)
    async with house.http() as http:
        assert (await http.post("/files", files=form(line("a"), filename="in.jsonl"))).status_code == 200
        assert (await http.post("/files", files=form(b"x", purpose="user_data", filename="a.txt"))).status_code == 200


@pytest.mark.parametrize(("purpose", "mib"), [("batch", 200), ("user_data", 8192)])
async def test_strict_uploads_end_at_openais_sizes(open_house: HouseBuilder, purpose: str, mib: int) -> None:
    house = await open_house(settings=ServerSettings(strict_openai=True, upload_bytes_max=1 << 40))
    create = {"filename": "in.jsonl", "mime_type": "application/jsonl", "purpose": purpose}
    status, error = await refused(house, "/uploads", json={"bytes": mib * 1024**2 + 1, **create})
    assert (status, error["code"]) == (413, "file_too_large")
    assert f"{mib * 1024**2} bytes ([server] strict_openai is on)" in error["message"]
    async with house.http() as http:
        assert (await http.post("/uploads", json={"bytes": mib * 1024**2, **create})).status_code == 200


async def test_strict_files_end_at_openais_sizes_also_when_their_purpose_comes_last(
    open_house: HouseBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strict, "BATCH_BYTES_MAX", 2000)
    monkeypatch.setattr(strict, "FILE_BYTES_MAX", 5000)
    house = await open_house(settings=STRICT)
    for file_first in (False, True):
        for purpose, size in (("batch", 2001), ("user_data", 5001)):
            data = b" " * (size - 1) + b"\n"
            status, error = await refused(house, "/files", files=form(data, purpose=purpose, file_first=file_first))
            assert (status, error["code"]) == (413, "file_too_large")
            assert "[server] strict_openai is on" in error["message"]


async def test_without_it_any_name_and_any_size_below_the_servers_own_limit_will_do(house: House) -> None:
    create = {"bytes": 2 * 1024**3, "filename": "in", "mime_type": "application/jsonl", "purpose": "batch"}
    async with house.http() as http:
        assert (await http.post("/uploads", json=create)).status_code == 200
        assert (await http.post("/files", files=form(line("a"), filename="in.txt"))).status_code == 200
