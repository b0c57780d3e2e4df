"""Clients that go away in the middle of what they send or receive."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import httpx2

from tests.server.houses import House, form, line, listening, until

HEAD = (
    b"POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary=B\r\n"
    b"content-length: 50000000\r\n\r\n"
    b'--B\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
)


async def test_an_upload_that_breaks_off_leaves_nothing(house: House) -> None:
    async with listening(house.app) as url:
        parts = urlsplit(url)
        _, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(HEAD + line("a") * 40_000)
        await writer.drain()
        await until(lambda: house.leftovers() != [])
        writer.close()
        await writer.wait_closed()
        await until(lambda: house.leftovers() == [])
        async with httpx2.AsyncClient(base_url=url) as http:
            assert (await http.get("/files")).json()["data"] == []
            assert (await http.post("/files", files=form(line("a")))).status_code == 200


async def test_a_download_that_breaks_off_disturbs_nobody(house: House) -> None:
    data = line("a") * 100_000
    async with listening(house.app) as url, httpx2.AsyncClient(base_url=url) as http:
        file = (await http.post("/files", files=form(data, purpose="user_data"))).json()
        async with http.stream("GET", f"/files/{file['id']}/content") as response:
            async for _ in response.aiter_raw():
                break
        assert (await http.get(f"/files/{file['id']}/content")).content == data
