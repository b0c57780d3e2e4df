"""Why a batch runs or waits: which of many reasons is named, what is said of the queue, and what is estimated."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, time
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.facts.capacity import Served
from scheduler.facts.hours import Hours
from scheduler.facts.windows import Calendar, Window
from scheduler.policy.explaining import TURNS, OpenTime, Place, Seen, differs, explain, window_of
from scheduler.policy.planner import ModelKey
from scheduler.policy.ranking import Turn
from store.records import HELD, BatchRecord, BatchStatus, OnDeadline, PinnedModel, RequestCounts
from store.schedule import AHEAD_SHOWN_MAX, EngineSight, Schedule, current, decode, of_status

CHAT, EMBED = ModelKey("chat", "r1"), ModelKey("embed", "r1")
BERLIN = ZoneInfo("Europe/Berlin")
NIGHTS = Calendar((Window("night", frozenset(range(7)), time(22), time(6), BERLIN),), frozenset(), BERLIN)
HOUR = 3600.0
READY = EngineSight(name="sim", state="ready")


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN).timestamp()


NOW = at("2026-11-24T12:00")


def batch(batch_id: str, *models: ModelKey, tenant: str = "t", **changed: Any) -> BatchRecord:
    plain = BatchRecord(
        id=batch_id,
        tenant=tenant,
        endpoint="/v1/chat/completions",
        input_file_id="file-1",
        completion_window="24h",
        status=BatchStatus.IN_PROGRESS,
        created_at=int(NOW) - 60,
        expires_at=int(NOW) + 86_400,
        on_deadline=OnDeadline.EXPIRE,
        models={key.id: PinnedModel(key.id, key.revision) for key in models or (CHAT,)},
        in_progress_at=int(NOW) - 50,
        counts=RequestCounts(100, 40, 0),
    )
    return replace(plain, **changed)


def look(*batches: BatchRecord, **changed: Any) -> Seen:
    order = [Place(one.id, work_seconds=HOUR) for one in batches if one.status is BatchStatus.IN_PROGRESS]
    seen = Seen(NOW, batches, order, engines={"sim": READY}, serving={CHAT: ["sim"], EMBED: ["sim"]})
    return replace(seen, **changed)


PRESSED = EngineSight(
    name="sim", state="ready", online=2, inflight=4, inflight_max=4, pressure="online requests are on this engine"
)
EVERYTHING: dict[str, Any] = {
    "waits": {"b": "Waits for the off-peak window 'night'."},
    "disk_problem": "The disk is below its reserve.",
    "outages": {CHAT: "Model 'chat' waits: engine sim is starting"},
    "engines": {"sim": PRESSED},
}


@pytest.mark.parametrize(
    ("taken_away", "held", "inflight", "code", "state", "says"),
    [
        ((), True, 0, "held", "waiting", HELD),
        ((), False, 0, "off_peak", "waiting", "Waits for the off-peak window 'night'."),
        (("waits",), False, 0, "disk", "waiting", "The disk is below its reserve."),
        (("waits", "disk_problem"), False, 0, "engine", "waiting", "engine sim is starting."),
        (
            ("waits", "disk_problem", "outages"),
            False,
            0,
            "behind",
            "waiting",
            "Waits behind 1 batch on the same model.",
        ),
        (("waits", "disk_problem"), False, 3, "beside_online", "running", "Runs, 3 lines of it in flight. Online"),
        (("waits", "disk_problem", "outages", "engines"), False, 1, "runs", "running", "Runs, 1 line of it in flight."),
    ],
)
def test_what_decides_is_named_in_this_order(
    taken_away: tuple[str, ...], held: bool, inflight: int, code: str, state: str, says: str
) -> None:
    rest = {name: value for name, value in EVERYTHING.items() if name not in taken_away}
    asked = batch("b", held_at=1 if held else None)
    found = explain(look(batch("a"), asked, inflight={"b": inflight}, **rest))["b"]
    assert (found.code, found.state) == (code, state)
    assert says in found.reason


@pytest.mark.parametrize(("engines", "code"), [({"sim": PRESSED}, "online"), ({"sim": READY}, "next")])
def test_the_first_of_the_queue_waits_for_online_requests_or_for_nothing(engines: Any, code: str) -> None:
    assert explain(look(batch("a"), engines=engines))["a"].code == code


def test_a_batch_of_two_models_waits_for_an_engine_only_if_neither_has_one() -> None:
    both = batch("b", CHAT, EMBED)
    outages = {CHAT: "Model 'chat' waits", EMBED: "Model 'embed' waits."}
    assert explain(look(both, outages={CHAT: outages[CHAT]}))["b"].code == "next"
    found = explain(look(both, outages=outages))["b"]
    assert (found.code, found.reason) == ("engine", "Model 'chat' waits. Model 'embed' waits.")


def test_online_requests_are_named_with_what_they_leave() -> None:
    found = explain(look(batch("a"), inflight={"a": 4}, engines={"sim": PRESSED}))["a"]
    assert found.reason == (
        "Runs, 4 lines of it in flight. Online requests come first on sim: it has 4 batch requests and may have 4."
    )
    assert found.engines == (PRESSED,)


def test_a_batch_that_runs_in_peak_hours_says_why() -> None:
    found = explain(look(batch("a"), inflight={"a": 1}, rescued={"a": "It would be late by morning."}))["a"]
    assert found.reason == "Runs, 1 line of it in flight. It would be late by morning."


def test_only_batches_on_the_same_model_are_ahead() -> None:
    found = explain(look(batch("a"), batch("b", EMBED), batch("c"), batch("d", CHAT, EMBED)))
    assert [(found[name].place, found[name].ahead) for name in "abcd"] == [
        (1, ()),
        (2, ()),
        (3, ("a",)),
        (4, ("a", "c")),
    ]
    assert {one.places for one in found.values()} == {4}


def test_the_ids_of_other_tenants_stay_with_them() -> None:
    found = explain(look(batch("a", tenant="x"), batch("b"), batch("c", tenant="x"), batch("d")))["d"]
    assert (found.ahead_total, found.ahead) == (3, ("b",))
    others = [f"{name}{number}" for name in "ac" for number in range(20)]
    many = [batch(name, tenant="x" if name.startswith("a") else "t") for name in others]
    found = explain(look(*many, batch("d")))["d"]
    assert (found.ahead_total, len(found.ahead)) == (40, AHEAD_SHOWN_MAX)
    assert not any(name.startswith("a") for name in found.ahead)


def test_the_start_comes_after_the_work_ahead_and_the_end_after_its_own() -> None:
    found = explain(look(batch("a"), batch("b"), batch("c", EMBED), inflight={"a": 1}))
    assert (found["a"].starts_at, found["a"].ends_at) == (None, NOW + HOUR)
    assert (found["b"].ahead_seconds, found["b"].starts_at, found["b"].ends_at) == (HOUR, NOW + HOUR, NOW + 2 * HOUR)
    assert (found["c"].starts_at, found["c"].ends_at) == (NOW, NOW + HOUR)


def test_what_runs_ends_when_its_pace_says() -> None:
    found = explain(look(batch("a", eta_at=int(NOW) + 77), inflight={"a": 1}))["a"]
    assert found.ends_at == int(NOW) + 77


def test_work_that_waits_for_the_night_starts_and_ends_within_nights() -> None:
    waits = {"a": "Waits for the night.", "b": "Waits for the night."}
    order = [Place("a", work_seconds=6 * HOUR), Place("b", work_seconds=4 * HOUR)]
    found = explain(look(batch("a"), batch("b"), order=order, waits=waits, calendar=NIGHTS))
    assert (found["a"].starts_at, found["a"].ends_at) == (at("2026-11-24T22:00"), at("2026-11-25T04:00"))
    assert (found["b"].starts_at, found["b"].ends_at) == (at("2026-11-25T04:00"), at("2026-11-25T00:00") + 24 * HOUR)


@pytest.mark.parametrize("code", ["held", "engine", "disk"])
def test_nobody_can_say_how_long_a_person_an_engine_or_a_disk_takes(code: str) -> None:
    by_code: dict[str, dict[str, Any]] = {"engine": {"outages": {CHAT: "away"}}, "disk": {"disk_problem": "full"}}
    changed = by_code.get(code, {})
    found = explain(look(batch("a", held_at=1 if code == "held" else None), **changed))["a"]
    assert (found.code, found.starts_at, found.ends_at) == (code, None, None)


def test_without_a_measured_rate_nothing_is_estimated() -> None:
    order = [Place("a", work_seconds=None), Place("b", work_seconds=None)]
    found = explain(look(batch("a"), batch("b"), order=order))
    assert found["a"].starts_at == NOW
    assert (found["a"].ends_at, found["b"].starts_at, found["b"].ahead_seconds) == (None, None, None)


def test_the_order_is_explained_as_it_was_made() -> None:
    place = Place("a", Turn.DUE.value, HOUR, -30.4, 0.25)
    found = explain(look(batch("a"), order=[place]))["a"]
    assert (found.turn, found.spare_seconds, found.share) == ("by_deadline", -30.0, 0.25)
    assert found.turn_reason == TURNS["by_deadline"]
    assert TURNS.keys() == {turn.value for turn in Turn}


def test_a_window_is_named_with_its_closing_or_its_opening() -> None:
    found = window_of(NIGHTS, NOW)
    assert found is not None
    assert (found.name, found.opens_at, found.closes_at) == ("night", at("2026-11-24T22:00"), None)
    found = window_of(NIGHTS, at("2026-11-24T23:00"))
    assert found is not None
    assert (found.opens_at, found.closes_at) == (None, at("2026-11-25T06:00"))
    assert window_of(Calendar(), NOW) is None


HOURS = st.integers(0, 400)


@given(asked=st.lists(st.tuples(HOURS, HOURS), min_size=1, max_size=5), start=st.integers(0, 14 * 24))
def test_open_time_is_passed_inside_the_windows_only(asked: list[tuple[int, int]], start: int) -> None:
    now = at("2026-03-22T00:00") + start * HOUR  # over the night of seven hours
    open_time = OpenTime(NIGHTS, now)
    for hours, later in asked:
        since = now + later * HOUR
        end = open_time.after(hours * HOUR, since=since)
        assert end is not None
        assert end >= since
        assert NIGHTS.open_seconds(since, end) == pytest.approx(hours * HOUR)
        assert NIGHTS.open_at(end) is not None


def test_what_never_opens_or_takes_years_has_no_end() -> None:
    never = Calendar((Window("never", frozenset(), time(1), time(2), BERLIN),), frozenset(), BERLIN)
    assert OpenTime(never, NOW).after(0, since=NOW) is None
    assert OpenTime(NIGHTS, NOW).after(9_000 * HOUR, since=NOW) is None
    assert OpenTime(NIGHTS, NOW).after(0, since=NOW + 10_000 * 24 * HOUR) is None


def test_what_is_not_in_progress_says_what_happens_to_it() -> None:
    found = explain(
        look(
            batch("a", status=BatchStatus.VALIDATING),
            batch("b", status=BatchStatus.FINALIZING),
            batch("c", status=BatchStatus.CANCELLING),
            batch("d", status=BatchStatus.VALIDATING, held_at=1),
        )
    )
    assert [(found[name].state, found[name].code) for name in "abcd"] == [
        ("waiting", "validating"),
        ("ending", "finalizing"),
        ("ending", "cancelling"),
        ("waiting", "held"),
    ]


def test_estimates_that_flicker_are_not_worth_a_write() -> None:
    before = explain(look(batch("a"), batch("b"), inflight={"a": 3}))["b"]
    later = look(batch("a"), batch("b"), inflight={"a": 2}, now=NOW + 1)
    assert not differs(before, explain(later)["b"])
    assert differs(None, before)
    shorter = replace(later, order=[Place("a", work_seconds=HOUR / 2), Place("b", work_seconds=HOUR)])
    assert differs(before, explain(shorter)["b"])
    assert differs(before, explain(replace(later, order=later.order[::-1]))["b"])
    assert differs(before, explain(replace(later, disk_problem="full"))["b"])
    assert differs(before, explain(replace(later, waits={"b": "Waits."}))["b"])


def test_lines_that_come_and_go_in_flight_are_not_worth_a_write() -> None:
    three, two = (explain(look(batch("a"), inflight={"a": count}))["a"] for count in (3, 2))
    assert not differs(three, two)


def test_an_explanation_outlives_a_restart_and_a_newer_server_may_say_more() -> None:
    schedule = explain(look(batch("a"), engines={"sim": PRESSED}, calendar=NIGHTS))["a"]
    assert decode(schedule.encode()) == schedule
    more = msgspec.json.decode(schedule.encode())
    assert decode(msgspec.json.encode({**more, "new_field": 1}).decode()) == schedule


def test_the_row_wins_where_it_has_moved_on() -> None:
    running = Schedule(at=1, state="running", code="runs", reason="Runs.")
    held = Schedule(at=1, state="waiting", code="held", reason=HELD)
    for changed, written, state, code in (
        ({}, running, "running", "runs"),
        ({"held_at": 5}, running, "waiting", "held"),
        ({}, held, "waiting", "next"),
        ({"status": BatchStatus.FINALIZING}, running, "ending", "finalizing"),
        ({"status": BatchStatus.CANCELLING}, running, "ending", "cancelling"),
        ({"status": BatchStatus.COMPLETED}, running, "ended", "completed"),
        ({"status": BatchStatus.VALIDATING}, None, "waiting", "validating"),
        ({}, of_status(batch("a", status=BatchStatus.VALIDATING), at=1), "waiting", "next"),
        ({}, None, "waiting", "next"),
    ):
        found = current(batch("a", schedule=None if written is None else written.encode(), **changed), at=9)
        assert (found.state, found.code) == (state, code), changed


def test_a_batch_whose_engine_is_away_starts_when_it_is_ready_and_ends_within_its_hours() -> None:
    away = {CHAT: "Model 'chat' waits: engine sim is away (until Tue 24 Nov 22:00)"}
    opens = at("2026-11-24T22:00")
    seen = look(batch("b"), outages=away, ready_at={CHAT: opens + 120}, calendar=NIGHTS)
    seen = replace(seen, order=[Place("b", work_seconds=10 * HOUR)])
    found = explain(replace(seen, served={"chat": Served(Hours.OFF_PEAK)}))["b"]
    assert (found.code, found.starts_at, found.ends_at) == ("engine", opens + 120, at("2026-11-26T00:02"))
    assert explain(seen)["b"].ends_at == opens + 120 + 10 * HOUR


def test_nobody_knows_when_an_engine_is_back_that_does_not_say_so() -> None:
    found = explain(look(batch("b"), outages={CHAT: "Model 'chat' waits: engine sim is down"}))["b"]
    assert (found.code, found.starts_at, found.ends_at) == ("engine", None, None)
