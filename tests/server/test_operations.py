"""Health, readiness, metrics, and the OpenAPI document."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.parser import text_string_to_metric_families

from engine.simulated import SimulatedEngine
from server.exposition import merged
from tests.server.houses import CHAT, PROFILE, House, HouseBuilder, form, line, start


async def test_a_server_is_alive_before_it_is_ready(open_house: HouseBuilder) -> None:
    house = await open_house(started=False)
    async with house.http() as http:
        assert (await http.get("http://server/healthz")).json() == {"status": "ok"}
        waiting = await http.get("http://server/readyz")
        assert waiting.status_code == 503
        assert any(CHAT in reason for reason in waiting.json()["reasons"])
        assert waiting.json()["engines"][0]["state"] == "stopped"
        await start(house.registry)
        ready = await http.get("http://server/readyz")
    assert ready.status_code == 200
    assert ready.json()["reasons"] == []
    assert ready.json()["engines"][0] == {
        "name": "sim",
        "state": "ready",
        "models": [model.id for model in house.registry.models()],
        "since_at": ready.json()["engines"][0]["since_at"],
        "incarnation": 1,
        "reason": None,
    }


async def test_a_folder_that_cannot_be_written_is_a_reason(house: House) -> None:
    shutil.rmtree(house.folder / "tmp")
    async with house.http() as http:
        response = await http.get("http://server/readyz")
    assert response.status_code == 503
    assert "cannot be written" in response.json()["reasons"][0]


async def test_what_the_process_itself_says_is_a_reason(house: House) -> None:
    house.reasons.append("stopping")
    async with house.http() as http:
        response = await http.get("http://server/readyz")
    assert (response.status_code, response.json()["reasons"]) == (503, ["stopping"])


async def test_a_server_without_models_is_not_ready(open_house: HouseBuilder) -> None:
    house = await open_house(engines=[])
    async with house.http() as http:
        response = await http.get("http://server/readyz")
    assert (response.status_code, response.json()["reasons"]) == (503, ["no model is served"])


async def test_metrics_hold_our_series_and_every_engines_under_its_label(open_house: HouseBuilder) -> None:
    house = await open_house(engines=[SimulatedEngine(name, PROFILE) for name in ("left", "right")])
    async with house.http() as http:
        await http.post("/files", files=form(line("a")))
        await http.get("/files/file-unknown")
        await http.post("/chat/completions", json={"model": CHAT, "messages": [{"role": "user", "content": "x"}]})
        response = await http.get("http://server/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    families = {family.name: family for family in text_string_to_metric_families(response.text)}
    routes = {sample.labels["route"] for sample in families["nightbatch_http_requests"].samples}
    assert "/v1/files/{file_id}" in routes
    assert not any("file-unknown" in route for route in routes)
    assert families["nightbatch_upload_bytes"].samples[0].value > 0
    assert "nightbatch_online_ttft_seconds" in families
    assert "nightbatch_online_inflight" in families
    engines = {sample.labels["nightbatch_engine"] for sample in families["simulated_requests_running"].samples}
    assert engines == {"left", "right"}


def test_a_family_of_several_engines_is_declared_once() -> None:
    own = CollectorRegistry()
    Gauge("shared", "Ours.", registry=own).set(1)
    text = '# HELP shared Theirs.\n# TYPE shared gauge\nshared{a="b"} 2\n# TYPE made counter\nmade_total 3\n'
    result = merged(own, [("one", text), ("two", text)]).decode()
    assert result.count("# TYPE shared gauge") == 1
    assert result.count("# TYPE made_total counter") == 1
    assert "shared 1.0\n" in result
    for name in ("one", "two"):
        assert f'shared{{a="b",nightbatch_engine="{name}"}} 2.0' in result
        assert f'made_total{{nightbatch_engine="{name}"}} 3.0' in result


def test_a_nightbatch_behind_a_nightbatch_keeps_its_own_engine_label() -> None:
    text = '# TYPE x gauge\nx{nightbatch_engine="inner"} 1\n'
    result = merged(CollectorRegistry(), [("outer", text)]).decode()
    assert 'x{exported_nightbatch_engine="inner",nightbatch_engine="outer"} 1.0' in result


def test_an_engine_whose_text_is_broken_or_contradicts_takes_nothing_else_with_it() -> None:
    own = CollectorRegistry()
    Counter("same", "Ours.", registry=own)
    result = merged(own, [("broken", "x{ 1\n"), ("other", "# TYPE same gauge\nsame 1\n"), ("good", "y 1\n")]).decode()
    assert 'nightbatch_engine="other"' not in result
    assert 'y{nightbatch_engine="good"} 1.0' in result


async def test_the_openapi_document_says_what_the_server_does(house: House) -> None:
    async with house.http() as http:
        document = (await http.get("http://server/openapi.json")).json()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    ids = [operation["operationId"] for operation in operations]
    assert len(ids) == len(set(ids))
    assert not any("422" in operation["responses"] for operation in operations)
    limit = next(p for p in document["paths"]["/v1/batches"]["get"]["parameters"] if p["name"] == "limit")
    assert {"type": "integer", "minimum": 1, "maximum": 100} in limit["schema"]["anyOf"]
    window = document["paths"]["/v1/batches"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert window["properties"]["completion_window"]["enum"] == ["1h", "24h", "7d"]
    schemas = document["components"]["schemas"]
    assert {reference.rpartition("/")[2] for reference in references(document)} <= set(schemas)
    assert "HTTPValidationError" not in json.dumps(document)
    assert document["paths"]["/v1/files"]["post"]["security"] == [{"ApiKey": []}]


async def test_each_router_parameter_of_a_path_is_documented(house: House) -> None:
    document = house.app.openapi()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            named = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
            assert named == {part[1:-1] for part in path.split("/") if part.startswith("{")}


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)
