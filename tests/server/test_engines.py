"""`GET /engines`: how the engines are fed."""

from __future__ import annotations

from engine.protocol import EngineMeters
from tests.server.houses import House


async def test_engines_say_how_they_are_fed_and_what_their_front_costs(house: House) -> None:
    [engine] = house.registry.engines()
    async with house.http() as http:
        before = (await http.get("/engines")).json()
        feeding = house.registry.feeding
        for at in range(11):
            feeding.meter(engine.name).add(at, EngineMeters(0.9 * at, 7.0 * at, 0, 0.7 * at, 200 * at), is_wanted=True)
            feeding.look_at_loop(cpu_seconds=0.1 * at, lines=200 * at, now=at)
        found = (await http.get("/engines")).json()
    assert (before["object"], [one["name"] for one in before["data"]]) == ("list", [engine.name])
    assert (before["data"][0]["busy_share"], before["server"]["core_share"]) == (None, None)
    [one] = found["data"]
    assert (one["object"], one["state"], one["slots"]) == ("engine", "ready", engine.limits().slots)
    assert set(one["models"]) == {model.id for model in engine.models()}
    assert (one["busy_share"], one["running_mean"]) == (0.9, 7.0)
    assert (one["front"]["core_share"], one["front"]["ms_per_request"]) == (0.7, 3.5)
    assert "70% of a core" in one["front"]["warning"]
    assert found["server"] == {"core_share": 0.1, "ms_per_request": 0.5, "requests_per_s": 200.0, "warning": None}
