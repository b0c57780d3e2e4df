"""`GET /batches/{id}/schedule`, over what a scheduler has written."""

from __future__ import annotations

from store.records import BatchStatus, NewShard
from store.schedule import EngineSight, Schedule, WindowSight
from tests.server.houses import CHAT, House
from tests.server.test_batches import create

WRITTEN = Schedule(
    at=1_000,
    state="waiting",
    code="off_peak",
    reason="Waits for the off-peak window 'night'.",
    place=2,
    places=5,
    ahead_total=1,
    ahead=("batch_other",),
    ahead_seconds=60.0,
    turn="short_first",
    turn_reason="Short ones first.",
    work_seconds=3_600.0,
    spare_seconds=7_200.0,
    share=0.5,
    inflight=0,
    window=WindowSight(name="night", opens_at=2_000),
    engines=(EngineSight(name="sim", state="ready", online=1, inflight=3, inflight_max=4, pressure="someone types"),),
    starts_at=2_060,
    ends_at=5_660,
)


async def running(house: House) -> str:
    made = await create(house)
    await house.store.work.admit(made["id"], shards=[NewShard(0, 0, 1, CHAT, "r")], total=1, at=1)
    return str(made["id"])


async def test_a_batch_that_waits_says_why_and_for_whom(house: House) -> None:
    batch_id = await running(house)
    await house.store.batches.show_schedules({batch_id: WRITTEN.encode()})
    async with house.http() as http:
        found = (await http.get(f"/batches/{batch_id}/schedule")).json()
        record = (await http.get(f"/batches/{batch_id}")).json()
    assert (found["object"], found["batch_id"], found["status"]) == ("batch.schedule", batch_id, "in_progress")
    assert (found["state"], found["code"], found["reason"]) == ("waiting", "off_peak", WRITTEN.reason)
    assert (found["as_of"], found["completion_window"], found["on_deadline"]) == (1_000, "24h", "expire")
    assert (found["expires_at"], found["lines_left"], found["lines_in_flight"]) == (record["expires_at"], 1, 0)
    assert 0 <= 86_400 - 3_600 - found["slack_seconds"] <= 60
    assert (found["work_seconds"], found["spare_seconds"]) == (3_600, 7_200)
    assert (found["starts_at"], found["ends_at"], found["disk"]) == (2_060, 5_660, None)
    assert found["queue"] == {
        "place": 2,
        "of": 5,
        "ahead_total": 1,
        "ahead": ["batch_other"],
        "ahead_seconds": 60,
        "turn": "short_first",
        "turn_reason": "Short ones first.",
        "share": 0.5,
    }
    assert found["window"] == {"name": "night", "opens_at": 2_000, "closes_at": None}
    assert found["engines"] == [
        {
            "name": "sim",
            "state": "ready",
            "reason": None,
            "online_requests": 1,
            "neighbour_requests": 0,
            "batch_requests": 3,
            "batch_requests_max": 4,
            "pressure": "someone types",
        }
    ]


async def test_a_new_batch_is_checked_first(house: House) -> None:
    made = await create(house)
    async with house.http() as http:
        found = (await http.get(f"/batches/{made['id']}/schedule")).json()
    assert (found["state"], found["code"], found["window"], found["engines"]) == ("waiting", "validating", None, [])
    assert found["slack_seconds"] is None


async def test_a_pause_shows_before_the_scheduler_has_seen_it(house: House) -> None:
    batch_id = await running(house)
    await house.store.batches.show_schedules({batch_id: WRITTEN.encode()})
    async with house.http() as http:
        await http.post(f"/batches/{batch_id}/pause")
        assert (await http.get(f"/batches/{batch_id}/schedule")).json()["code"] == "held"
        await http.post(f"/batches/{batch_id}/resume")
        assert (await http.get(f"/batches/{batch_id}/schedule")).json()["code"] == "off_peak"


async def test_an_ended_batch_says_so_and_nothing_of_a_queue(house: House) -> None:
    batch_id = await running(house)
    await house.store.batches.show_schedules({batch_id: WRITTEN.encode()})
    await house.store.batches.fail(batch_id, errors=[], errors_total=0, at=5)
    await house.store.batches.show_schedules({batch_id: WRITTEN.encode()})  # a report that comes late
    async with house.http() as http:
        found = (await http.get(f"/batches/{batch_id}/schedule")).json()
    assert (found["state"], found["code"], found["reason"]) == ("ended", "failed", "It has ended: failed.")
    assert (found["queue"]["place"], found["starts_at"], found["ends_at"]) == (None, None, None)
    record = await house.store.batches.get("default", batch_id)
    assert record is not None
    assert record.status is BatchStatus.FAILED


async def test_the_schedule_of_an_unknown_batch_is_404(house: House) -> None:
    async with house.http() as http:
        response = await http.get("/batches/batch_unknown/schedule")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "batch_not_found")
