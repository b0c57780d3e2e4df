"""Nothing that a client sends is a 500."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any
from urllib.parse import quote

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.server.houses import CHAT, House, line
from tests.support.document import operations

FUZZ = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
ROUTES = [(method, path.removeprefix("/v1")) for method, path in operations() if path.startswith("/v1/")]
"""A route of tomorrow is fuzzed by being in the OpenAPI document."""
POST_PATHS = st.sampled_from(sorted(re.sub(r"\{\w+\}", "x", path) for method, path in ROUTES if method == "POST"))
READS = [(method, path) for method, path in ROUTES if method in ("GET", "DELETE")]
KNOWN = ["model", "messages", "prompt", "input", "n", "stream", "query", "documents", "text_1", "text_2", "max_tokens",
         "input_file_id", "endpoint", "completion_window", "metadata", "output_expires_after", "on_invalid_line",
         "idempotency_key", "bytes", "filename", "mime_type", "purpose", "part_ids", "md5", "where", "set",
         "deadline_at", "service_tier"]  # fmt: skip
PATH_TEXT = st.text(min_size=1, max_size=20).filter(lambda text: text not in (".", ".."))


def sound(response: Any) -> bool:
    """Below 500, and an error only in the envelope; a model that cannot answer now may say 503."""
    if response.status_code < 400:
        return True
    return response.status_code < 500 and set(response.json()["error"]) == {"message", "type", "param", "code"}


@FUZZ
@given(path=POST_PATHS, body=st.binary(max_size=200), kind=st.sampled_from(["application/json", "text/plain", ""]))
async def test_random_bytes_are_no_500(house: House, path: str, body: bytes, kind: str) -> None:
    async with house.http() as http:
        assert sound(await http.post(path, content=body, headers={"content-type": kind} if kind else {}))


@FUZZ
@given(path=POST_PATHS, fields=st.dictionaries(st.sampled_from(KNOWN) | st.text(max_size=8), JSON, max_size=6))
async def test_random_json_is_no_500(house: House, path: str, fields: dict[str, Any]) -> None:
    body = json.dumps({"model": CHAT, **fields}).encode("utf-8", "surrogatepass")
    async with house.http() as http:
        assert sound(await http.post(path, content=body, headers={"content-type": "application/json"}))


HEADERS = st.sampled_from(
    [b'Content-Disposition: form-data; name="purpose"', b'Content-Disposition: form-data; name="file"; filename="a"',
     b'Content-Disposition: form-data; name="file"', b'Content-Disposition: form-data; name="expires_after[seconds]"',
     b'Content-Disposition: form-data; name="expires_after[anchor]"', b"Content-Disposition: form-data", b"X: y",
     b'content-disposition: ; name=";"', b'Content-Disposition: form-data; name="file"; filename="\xff\x00"']
)  # fmt: skip
CONTENTS = st.sampled_from([b"batch", b"user_data", b"created_at", b"3600", line("a"), b"{bad\n", b""]) | st.binary(
    max_size=60
)


@FUZZ
@given(parts=st.lists(st.tuples(HEADERS, CONTENTS), max_size=5), tail=st.sampled_from([b"--B--\r\n", b"", b"--B"]))
async def test_random_forms_are_no_500(house: House, parts: list[tuple[bytes, bytes]], tail: bytes) -> None:
    body = b"".join(b"--B\r\n" + header + b"\r\n\r\n" + content + b"\r\n" for header, content in parts) + tail
    async with house.http() as http:
        response = await http.post("/files", content=body, headers={"content-type": "multipart/form-data; boundary=B"})
        assert sound(response)
        if response.status_code >= 400:
            async with asyncio.timeout(10):  # the index worker takes its own file away when it hears of the end
                while list((house.folder / "tmp").iterdir()):  # noqa: ASYNC110 (another process)
                    await asyncio.sleep(0.01)


@FUZZ
@given(text=PATH_TEXT, query=st.dictionaries(st.sampled_from(["after", "limit", "order", "purpose"]), st.text()))
async def test_random_ids_and_queries_are_no_500(house: House, text: str, query: dict[str, str]) -> None:
    segment = quote(text.encode("utf-8", "surrogatepass"), safe="")
    params = {name: value.encode("utf-8", "replace").decode() for name, value in query.items()}
    async with house.http() as http:
        for method, path in READS:
            assert sound(await http.request(method, re.sub(r"\{\w+\}", segment, path), params=params))
