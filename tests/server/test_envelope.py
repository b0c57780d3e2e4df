"""What every answer has in common, whatever is wrong."""

from __future__ import annotations

import logging
import re
import secrets
from typing import Any

import httpx2
import openai
import pytest
from fastapi import FastAPI

from engine.protocol import EngineRequest, EngineResult
from engine.simulated import SimulatedEngine
from server import errors
from server.middleware.envelope import RequestEnvelope
from server.tenants import Tenants
from store.records import Damaged
from tests.server.houses import CHAT, PROFILE, House, HouseBuilder, form, line


def is_envelope(body: Any) -> bool:
    return set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}


async def test_every_refusal_is_the_envelope(house: House) -> None:
    cases = [
        ("GET", "/v1/nothing", 404, "unknown_url"),
        ("GET", "/", 404, "unknown_url"),
        ("PUT", "/v1/files", 405, "method_not_allowed"),
        ("DELETE", "/v1/batches", 405, "method_not_allowed"),
        ("GET", "/v1/files/file-x", 404, "file_not_found"),
        ("GET", "/v1/batches/batch_x", 404, "batch_not_found"),
    ]
    async with house.http() as http:
        for method, path, status, code in cases:
            response = await http.request(method, f"http://server{path}")
            assert is_envelope(response.json())
            assert (response.status_code, response.json()["error"]["code"]) == (status, code), path
            if status == 405:
                assert set(response.headers["allow"].split(", ")) == {"GET", "POST"}


async def test_every_answer_has_a_request_id_of_its_own_and_the_time_it_took(house: House) -> None:
    ids = set()
    async with house.http() as http:
        for path in ("/files", "/batches", "/models", "/nothing", "http://server/healthz", "http://server/metrics"):
            response = await http.get(path)
            assert re.fullmatch(r"req_[0-9a-f]{32}", response.headers["x-request-id"])
            assert response.headers["openai-processing-ms"].isdigit()
            ids.add(response.headers["x-request-id"])
    assert len(ids) == 6


@pytest.mark.parametrize("path", ["/files", "/batches", "/models"])
async def test_routes_exist_without_the_prefix(house: House, path: str) -> None:
    async with house.http() as http:
        assert (await http.get(f"http://server{path}")).json() == (await http.get(path)).json()


async def test_a_key_is_asked_for_where_keys_are_configured(open_house: HouseBuilder) -> None:
    house = await open_house(tenants=Tenants.from_keys({"secret": "a"}))
    async with house.sdk(api_key="wrong") as client:
        with pytest.raises(openai.AuthenticationError, match="Incorrect API key") as caught:
            await client.files.list()
        assert caught.value.code == "invalid_api_key"
    async with house.http() as http:
        missing = await http.get("/files")
        assert missing.status_code == 401
        assert "Authorization: Bearer" in missing.json()["error"]["message"]
        assert (await http.get("/files", headers={"authorization": "Bearer secret"})).status_code == 200
        for path in ("/healthz", "/metrics"):
            assert (await http.get(f"http://server{path}")).status_code == 200
        upload = await http.post("/files", files=form(line("a")), headers={"authorization": "Basic secret"})
        assert upload.status_code == 401
    assert house.leftovers() == []


class DefectiveEngine(SimulatedEngine):
    """Breaks the protocol: raises what no caller expects."""

    async def generate(self, request: EngineRequest) -> EngineResult:
        raise ZeroDivisionError(f"secret detail of {request.model}")


async def test_a_defect_shows_a_request_id_and_nothing_else(
    open_house: HouseBuilder, caplog: pytest.LogCaptureFixture
) -> None:
    house = await open_house(engines=[DefectiveEngine("sim", PROFILE)])
    async with house.http() as http:
        response = await http.post("/chat/completions", json={"model": CHAT, "messages": []})
    error = response.json()["error"]
    assert response.status_code == 500
    assert is_envelope(response.json())
    assert error["type"] == "server_error"
    assert response.headers["x-request-id"] in error["message"]
    assert "secret" not in response.text
    failure = next(record for record in caplog.records if record.levelno == logging.ERROR)
    assert failure.exc_info is not None


async def test_damage_in_the_store_is_no_clients_fault() -> None:
    app = FastAPI()
    errors.install(app)
    app.add_middleware(RequestEnvelope, token=secrets.token_bytes)

    @app.get("/")
    async def damaged() -> None:
        raise Damaged("/data/blobs/ab/abcd: checksum of byte 4096 is wrong")

    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://server") as http:
        response = await http.get("/")
    assert response.status_code == 500
    assert is_envelope(response.json())
    assert "/data" not in response.text


async def test_the_access_line_names_the_request_and_never_its_words(
    open_house: HouseBuilder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    house = await open_house(tenants=Tenants.from_keys({"secret": "team-a"}))
    async with house.http(headers={"authorization": "Bearer secret"}) as http:
        body = {"model": CHAT, "messages": [{"role": "user", "content": "a private thing"}]}
        await http.post("/chat/completions", json=body)
        await http.get("/files/a%0Aforged%20line?after=private")
    lines = [record for record in caplog.records if record.name == "nightbatch.http"]
    first, second = (record.__dict__ for record in lines)
    assert (first["method"], first["path"], first["status"], first["tenant"]) == (
        "POST", "/v1/chat/completions", 200, "team-a",
    )  # fmt: skip
    assert first["ms"] >= 0
    assert second["path"] == "/v1/files/a%0Aforged%20line"
    assert not any("private" in str(record.__dict__) for record in lines)
