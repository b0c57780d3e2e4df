"""Compressed batch inputs: stored as their lines, whatever comes first in the form, and refused when not whole."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Callable

import pytest

from server.settings import ServerSettings
from store.settings import MIB, StoreSettings
from tests.server.houses import House, HouseBuilder, form, line

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CONTENT = b"".join(line(f"row-{number}") for number in range(2000))
Compress = Callable[[bytes], bytes]
BOTH = pytest.mark.parametrize(("suffix", "compress"), [("gz", gzip.compress), ("zst", zstd.compress)])


@BOTH
@pytest.mark.parametrize("file_first", [False, True])
async def test_a_compressed_input_is_kept_as_its_lines(
    house: House, suffix: str, compress: Compress, file_first: bool
) -> None:
    parts = form(compress(CONTENT), filename=f"nightly.jsonl.{suffix}", file_first=file_first)
    async with house.http() as http:
        response = await http.post("/files", files=parts)
        file = response.json()
        assert (response.status_code, file["bytes"], file["filename"]) == (200, len(CONTENT), "nightly.jsonl")
        assert (await http.get(f"/files/{file['id']}/content")).content == CONTENT
        ranged = await http.get(f"/files/{file['id']}/content", headers={"range": "bytes=10-19"})
        assert ranged.content == CONTENT[10:20]
        record = await house.store.files.get("default", file["id"])
        assert record is not None
        assert record.summary is not None
        assert (record.summary.lines, record.summary.error_lines) == (2000, 0)
        await http.delete(f"/files/{file['id']}")
    assert house.leftovers() == []


async def test_what_counts_is_the_content_and_not_the_name(house: House) -> None:
    async with house.http() as http:
        plain = await http.post("/files", files=form(CONTENT, filename="not-really.jsonl.gz"))
        packed = await http.post("/files", files=form(gzip.compress(CONTENT), filename="in.jsonl"))
    assert (plain.json()["bytes"], plain.json()["filename"]) == (len(CONTENT), "not-really.jsonl.gz")
    assert (packed.json()["bytes"], packed.json()["filename"]) == (len(CONTENT), "in.jsonl")


@pytest.mark.parametrize("file_first", [False, True])
async def test_a_compressed_file_of_another_purpose_is_kept_as_it_came(house: House, file_first: bool) -> None:
    packed = gzip.compress(CONTENT)
    async with house.http() as http:
        parts = form(packed, purpose="user_data", filename="in.jsonl.gz", file_first=file_first)
        file = (await http.post("/files", files=parts)).json()
        assert (file["bytes"], file["filename"]) == (len(packed), "in.jsonl.gz")
        # The client undoes a content encoding, of which there must be none here.
        content = await http.get(f"/files/{file['id']}/content", headers={"accept-encoding": "identity"})
        assert content.content == packed


@BOTH
@pytest.mark.parametrize("file_first", [False, True])
async def test_a_bomb_ends_at_the_limit_which_is_named(
    open_house: HouseBuilder, suffix: str, compress: Compress, file_first: bool
) -> None:
    house = await open_house(
        settings=ServerSettings(upload_bytes_max=8 * MIB), store_settings=StoreSettings(upload_bytes_max=8 * MIB)
    )
    bomb = compress(bytes(64 * MIB))
    async with house.http() as http:
        parts = form(bomb, filename=f"bomb.jsonl.{suffix}", file_first=file_first)
        response = await http.post("/files", files=parts)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (413, "file_too_large", "file")
    assert "decompressed" in error["message"]
    assert f"{8 * MIB} bytes ([store] upload_mib_max)" in error["message"]
    assert house.leftovers() == []


@BOTH
@pytest.mark.parametrize("file_first", [False, True])
@pytest.mark.parametrize("damage", ["cut", "changed", "followed"])
async def test_a_stream_that_is_not_whole_is_refused_by_name(
    house: House, suffix: str, compress: Compress, file_first: bool, damage: str
) -> None:
    whole = compress(CONTENT)
    changed = whole[:30] + b"\xff" * 30 + whole[60:]
    damaged = {"cut": whole[:-5], "changed": changed, "followed": whole + b"{}\n"}[damage]
    async with house.http() as http:
        parts = form(damaged, filename=f"damaged.jsonl.{suffix}", file_first=file_first)
        response = await http.post("/files", files=parts)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "corrupt_file", "file")
    assert f"damaged.jsonl.{suffix}" in error["message"]
    assert house.leftovers() == []


@BOTH
async def test_a_compressed_nothing_is_empty(house: House, suffix: str, compress: Compress) -> None:
    async with house.http() as http:
        response = await http.post("/files", files=form(compress(b""), filename=f"nothing.jsonl.{suffix}"))
    assert (response.status_code, response.json()["error"]["code"]) == (400, "empty_file")
    assert house.leftovers() == []
