from __future__ import annotations

import time as clock
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.facts.tiers import Outside, TierTerms
from scheduler.facts.windows import Calendar, Window
from scheduler.policy.holding import Hold, Holding, holding, waits
from scheduler.policy.planner import ModelKey
from store.records import BatchRecord, BatchStatus, OnDeadline, PinnedModel, RequestCounts
from tests.scheduler.world import TestEngine, World, chats, running

BERLIN = ZoneInfo("Europe/Berlin")
EVERY_DAY = frozenset(range(7))
NIGHT = Calendar((Window("night", EVERY_DAY, time(22), time(6), BERLIN),), zone=BERLIN)
SMOL = ModelKey("smol", "r1")


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN).timestamp()


def batch(*, deadline: str, on_deadline: OnDeadline = OnDeadline.EXPIRE, lines: int = 3600) -> BatchRecord:
    return BatchRecord(
        "batch_1", "t", "/v1/chat/completions", "file-1", "24h", BatchStatus.IN_PROGRESS, 0, int(at(deadline)),
        on_deadline, {"smol": PinnedModel("smol", "r1")}, counts=RequestCounts(total=lines),
    )  # fmt: skip


def reason(
    found: BatchRecord,
    *,
    now: str = "2026-06-10T12:00",
    seconds_per_line: float | None = 1.0,
    calendar: Calendar = NIGHT,
) -> str | None:
    rates = {} if seconds_per_line is None else {SMOL: seconds_per_line}
    return waits([found], Hold(calendar, 1.25, 600.0), now=at(now), seconds_per_line=rates).get(found.id)


def test_the_reason_says_for_what_and_until_when_a_batch_waits() -> None:
    assert reason(batch(deadline="2026-06-11T12:00")) == (
        "Waits for the off-peak window 'night', which opens at Wed 10 Jun 22:00 (Europe/Berlin); the batch expires at "
        "Thu 11 Jun 12:00."
    )
    assert "is due at" in (reason(batch(deadline="2026-06-11T12:00", on_deadline=OnDeadline.CONTINUE)) or "")


@pytest.mark.parametrize(
    ("why", "found", "now", "seconds_per_line"),
    [
        ("a window is open", batch(deadline="2026-06-11T12:00"), "2026-06-10T23:00", 1.0),
        ("it is late already", batch(deadline="2026-06-10T11:00"), "2026-06-10T12:00", 1.0),
        ("no window before its deadline", batch(deadline="2026-06-10T20:00"), "2026-06-10T12:00", 1.0),
        ("the night is too short for it", batch(deadline="2026-06-11T12:00"), "2026-06-10T12:00", 8.0),
        ("no window, and no rate known", batch(deadline="2026-06-10T20:00"), "2026-06-10T12:00", None),
    ],
)
def test_a_batch_runs_when(why: str, found: BatchRecord, now: str, seconds_per_line: float | None) -> None:
    assert reason(found, now=now, seconds_per_line=seconds_per_line) is None, why


def test_a_batch_of_several_models_is_judged_by_the_slowest_and_waits_while_one_is_unknown() -> None:
    found = batch(deadline="2026-06-11T12:00")
    mixed = replace(found, models={**found.models, "big": PinnedModel("big", "r1")})
    hold, now = Hold(NIGHT, 1.25, 600.0), at("2026-06-10T12:00")
    assert waits([mixed], hold, now=now, seconds_per_line={SMOL: 8.0})
    assert not waits([mixed], hold, now=now, seconds_per_line={SMOL: 1.0, ModelKey("big", "r1"): 8.0})


def night_of(*batches: BatchRecord, hold: Hold | None = None, now: str = "2026-06-10T12:00") -> Holding:
    return holding(batches, hold or Hold(NIGHT, 1.25, 600.0), now=at(now), seconds_per_line={SMOL: 1.0})


def of_hours(name: str, hours: float, *, tier: str = "24h", deadline: str = "2026-06-11T12:00") -> BatchRecord:
    found = batch(deadline=deadline, lines=int(hours * 3600))
    return replace(found, id=name, completion_window=tier, paused_at=1)


def test_batches_that_each_fit_into_the_night_do_not_all_wait_when_they_do_not_fit_together() -> None:
    alone = night_of(of_hours("a", 4))
    assert (set(alone.waits), dict(alone.rescued)) == ({"a"}, {})
    together = night_of(of_hours("a", 4), of_hours("b", 4, deadline="2026-06-11T13:00"))
    assert set(together.rescued) == {"a", "b"}


def test_what_is_due_first_runs_until_the_windows_suffice_for_the_rest() -> None:
    found = night_of(
        of_hours("today", 1, deadline="2026-06-10T20:00"),
        of_hours("tonight", 4),
        of_hours("next week", 20, deadline="2026-06-17T12:00"),
    )
    assert set(found.rescued) == {"today"}
    assert set(found.waits) == {"tonight", "next week"}
    assert found.rescued["today"] == (
        "Runs in peak hours, below online requests: 0 s of off-peak time before its deadline, 60 min of work that is "
        "due until then."
    )


def test_one_that_cannot_be_in_time_runs_at_once_and_moves_no_other_out_of_the_night() -> None:
    found = night_of(of_hours("hopeless", 40, deadline="2026-06-10T21:00"), of_hours("tonight", 5))
    assert (set(found.rescued), set(found.waits)) == ({"hopeless"}, {"tonight"})


def test_a_tier_may_have_a_right_of_its_own() -> None:
    tiers = {"1h": TierTerms(outside=Outside.FILL), "7d": TierTerms(outside=Outside.HOLD)}
    batches = [of_hours(tier, 0.5, tier=tier) for tier in ("1h", "24h", "7d")]
    waits_by_default = Hold(NIGHT, 1.25, 600.0, tiers=tiers)
    assert set(night_of(*batches, hold=waits_by_default).waits) == {"24h", "7d"}
    runs_by_default = replace(waits_by_default, outside=Outside.FILL)
    assert set(night_of(*batches, hold=runs_by_default).waits) == {"7d"}


def test_work_that_runs_by_day_anyway_takes_the_night_only_from_what_the_day_leaves_of_it() -> None:
    """Ten hours of peak time at half the rate do five of the six hours that need not wait."""
    tiers = {"1h": TierTerms(outside=Outside.FILL)}
    hold = Hold(NIGHT, 1.25, 600.0, tiers=tiers)
    by_day = of_hours("by day", 6, tier="1h", deadline="2026-06-11T05:00")
    assert set(night_of(by_day, of_hours("tonight", 5), hold=hold).waits) == {"tonight"}
    assert set(night_of(by_day, of_hours("tonight", 6), hold=hold).rescued) == {"tonight"}


def test_one_that_runs_in_peak_hours_goes_on_until_there_is_something_to_spare() -> None:
    """8 h of night: 1.25 times 6.2 h and ten minutes fit, a tenth more does not."""
    assert set(night_of(of_hours("a", 6.2)).waits) == {"a"}
    assert set(night_of(replace(of_hours("a", 6.2), paused_at=None)).rescued) == {"a"}


@given(st.lists(st.tuples(st.floats(0.1, 12), st.floats(1, 150)), min_size=1, max_size=10))
def test_what_waits_fits_into_the_windows_together(drawn: list[tuple[float, float]]) -> None:
    now = at("2026-06-10T12:00")
    batches = [
        replace(of_hours(f"b{no}", hours), expires_at=int(now + due * 3600)) for no, (hours, due) in enumerate(drawn)
    ]
    found = night_of(*batches)
    assert set(found.waits) | set(found.rescued) == {one.id for one in batches}
    work = 0.0
    for one in sorted(batches, key=lambda one: one.expires_at):
        if one.id in found.waits:
            work += one.counts.total
            assert NIGHT.open_seconds(now, one.expires_at) >= work


def test_without_a_window_nothing_waits() -> None:
    assert reason(batch(deadline="2026-06-11T12:00"), calendar=Calendar()) is None


async def test_a_batch_waits_for_its_window_and_says_so_and_runs_when_it_opens(world: World) -> None:
    """The window opens in a few seconds; until then no line goes to an engine."""
    opens = datetime.fromtimestamp(clock.time() + 3, UTC)
    soon = Window("soon", EVERY_DAY, opens.time(), (opens + timedelta(hours=6)).time(), UTC)
    found = await world.batch(chats(40), expires_at=int(clock.time()) + 24 * 3600)
    async with running(world.scheduler(hold=Hold(Calendar((soon,)), 1.25, 60.0))):
        waiting = await world.until(found, lambda seen: seen.paused_at is not None)
        assert waiting.pause_reason is not None
        assert waiting.pause_reason.startswith("Waits for the off-peak window 'soon'")
        assert waiting.counts.completed == 0
        ended = await world.ended(found)
    assert clock.time() >= opens.timestamp()
    assert ended.status is BatchStatus.COMPLETED
    assert ended.paused_at is None


async def test_a_window_that_closes_takes_the_lines_back_and_loses_none(world: World, engine: TestEngine) -> None:
    closes = datetime.fromtimestamp(clock.time() + 2, UTC)
    again = closes + timedelta(seconds=2)
    windows = (
        Window("first", EVERY_DAY, (closes - timedelta(hours=1)).time(), closes.time(), UTC),
        Window("second", EVERY_DAY, again.time(), (again + timedelta(hours=6)).time(), UTC),
    )
    found = await world.batch(chats(40), expires_at=int(clock.time()) + 24 * 3600)
    engine.hold()
    async with running(world.scheduler(hold=Hold(Calendar(windows), 1.25, 60.0))):
        await world.until(found, lambda seen: seen.paused_at is not None)
        assert engine.load().running == 0
        engine.let_go()
        ended = await world.ended(found)
    output, errors = await world.results(ended)
    assert [line["custom_id"] for line in output] == [f"row-{no}" for no in range(40)]
    assert errors == []
