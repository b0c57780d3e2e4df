"""A model that is away by the clock: online requests are told until when, and the server still counts as ready."""

from __future__ import annotations

import json
import time

import pytest

from engine.simulated import SimulatedEngine
from engine.supervisor import Supervised
from tests.server.houses import CHAT, PROFILE, HouseBuilder

REASON = "until Tue 24 Nov 22:00 (Europe/Berlin): it runs in off-peak windows only"


async def away(*, back_in_seconds: float | None) -> Supervised:
    engine = Supervised(SimulatedEngine("sim", PROFILE))
    back_at = None if back_in_seconds is None else time.time() + back_in_seconds
    engine.explain_absence(REASON, back_at=back_at)
    return engine


@pytest.mark.parametrize("stream", [False, True])
async def test_an_online_request_is_told_when_the_model_is_back(open_house: HouseBuilder, *, stream: bool) -> None:
    house = await open_house(engines=[await away(back_in_seconds=3600)], started=False)
    body = {"model": CHAT, "messages": [{"role": "user", "content": "hi"}], "stream": stream}
    async with house.http() as http:
        response = await http.post("/chat/completions", json=body)
    assert response.status_code == 503
    error = response.json()["error"]
    assert error["message"] == f"The model '{CHAT}' cannot answer now: it is away ({REASON})."
    assert error["code"] == "engine_unavailable"
    starts_in = 120  # assumed of an engine that was never started here
    assert 3600 + starts_in - 60 < int(response.headers["retry-after"]) <= 3600 + starts_in


async def test_without_a_time_the_usual_retry_is_told(open_house: HouseBuilder) -> None:
    house = await open_house(engines=[await away(back_in_seconds=None)], started=False)
    async with house.http() as http:
        response = await http.post(
            "/chat/completions", json={"model": CHAT, "messages": [{"role": "user", "content": "hi"}]}
        )
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) == house.settings.retry_after_seconds


async def test_a_model_that_is_away_is_listed_takes_batches_and_does_not_make_the_server_unready(
    open_house: HouseBuilder,
) -> None:
    house = await open_house(engines=[await away(back_in_seconds=3600)], started=False)
    async with house.http() as http:
        ready = await http.get("http://server/readyz")
        models = await http.get("/models")
        line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"model": CHAT}}
        uploaded = await http.post(
            "/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", json.dumps(line).encode())}
        )
        batch = await http.post(
            "/batches",
            json={
                "input_file_id": uploaded.json()["id"],
                "endpoint": "/v1/chat/completions",
                "completion_window": "24h",
            },
        )
    assert (ready.status_code, ready.json()["engines"][0]["state"]) == (200, "away")
    assert CHAT in [model["id"] for model in models.json()["data"]]
    assert (batch.status_code, batch.json()["status"]) == (200, "validating")
