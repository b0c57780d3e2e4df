"""What arrives badly: bodies that stop half-way, and bytes that are no HTTP."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable
from typing import Any

import pytest

from server.settings import ServerSettings
from tests.server.houses import CHAT, House, HouseBuilder, listening

JSON = "content-type: application/json\r\n"
FORM = "content-type: multipart/form-data; boundary=x\r\n"


async def said(url: str, parts: Iterable[bytes], pause_seconds: float = 0.0) -> tuple[int, dict[str, str], Any]:
    """Status, headers and JSON of what the server answers to these bytes until it closes the connection."""
    host, port = url.removeprefix("http://").removesuffix("/v1").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause_seconds)
        async with asyncio.timeout(10):
            answer = await reader.read()
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(status.split()[1]), headers, json.loads(body)


def head(path: str, kind: str, length: int, extra: str = "") -> bytes:
    return f"POST {path} HTTP/1.1\r\nhost: x\r\n{kind}content-length: {length}\r\n{extra}\r\n".encode()


@pytest.mark.parametrize(
    ("path", "kind", "begun"),
    [
        ("/v1/chat/completions", JSON, b'{"model":'),
        ("/v1/batches", JSON, b""),
        ("/v1/files", FORM, b'--x\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nba'),
        ("/v1/files", FORM, b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n{"cus'),
    ],
)
async def test_a_body_that_stops_arriving_is_408(open_house: HouseBuilder, path: str, kind: str, begun: bytes) -> None:
    house = await open_house(settings=ServerSettings(body_silence_seconds_max=0.05))
    async with listening(house.app) as url:
        status, headers, body = await said(url, [head(path, kind, 10_000), begun])
    assert status == 408
    assert body["error"]["code"] == "request_timeout"
    assert "0.05 s (body_silence_seconds_max)" in body["error"]["message"]
    assert headers["connection"] == "close"
    assert headers["x-request-id"]
    assert house.leftovers() == []


async def test_a_slow_body_that_keeps_arriving_is_taken(open_house: HouseBuilder) -> None:
    house = await open_house(settings=ServerSettings(body_silence_seconds_max=0.3))
    body = json.dumps({"model": CHAT, "messages": [{"role": "user", "content": "slowly"}], "max_tokens": 2}).encode()
    parts = [body[start : start + 8] for start in range(0, len(body), 8)]
    async with listening(house.app) as url:
        first = head("/v1/chat/completions", JSON, len(body), "connection: close\r\n")
        status, _, answer = await said(url, [first, *parts], pause_seconds=0.05)
    assert len(parts) * 0.05 > 0.3
    assert (status, answer["object"]) == (200, "chat.completion")


@pytest.mark.parametrize(
    "sent",
    [
        b"NONSENSE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /v1/models HTTP/1.1\r\nhost: x\r\nbroken header\r\n\r\n",
        b"POST /v1/batches HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
    ],
)
async def test_what_is_no_http_gets_the_envelope(house: House, sent: bytes) -> None:
    async with listening(house.app) as url:
        status, headers, body = await said(url, [sent])
    assert status == 400
    assert headers["content-type"] == "application/json"
    assert re.fullmatch(r"req_[0-9a-f]{32}", headers["x-request-id"])
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["code"] == "invalid_http"
