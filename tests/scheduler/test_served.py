"""What can be done by when on models that are not always there."""

from __future__ import annotations

from datetime import datetime, time
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.facts.capacity import Capacity, Served, Supply
from scheduler.facts.hours import Hours, serving_seconds
from scheduler.facts.windows import Calendar, Window
from scheduler.facts.work import Job, ModelKey
from scheduler.policy.admission import Remark, judge
from scheduler.policy.demand import pools
from scheduler.policy.holding import Hold, Holding, holding
from scheduler.policy.planner import Snapshot, queue_of
from store.records import BatchRecord, BatchStatus, OnDeadline, PinnedModel, RequestCounts

BERLIN = ZoneInfo("Europe/Berlin")
NIGHTS = Calendar((Window("night", frozenset(range(7)), time(22), time(6), BERLIN),), zone=BERLIN)
HOUR = 3600.0
NOON = datetime(2026, 11, 24, 12, tzinfo=BERLIN).timestamp()
DAY = 24 * HOUR


def supply(now: float, **served: Served) -> Supply:
    return Supply(NIGHTS, now=now, until=now + 30 * DAY, peak_share=0.5, served=served)


def keys(*models: str) -> list[ModelKey]:
    return [ModelKey(model, "r") for model in models]


@pytest.mark.parametrize(
    ("served", "off_peak_hours", "all_hours"),
    [
        (Served(), 8, 8 + 8),  # 16 h of peak time count half
        (Served(Hours.OFF_PEAK, start_seconds=0.5 * HOUR), 7.5, 7.5),
        (Served(Hours.PEAK, start_seconds=HOUR), 0, (10 + 6 - 1) / 2),  # it returns at 06:00
        (Served(Hours.PEAK, start_seconds=HOUR, is_ready=False), 0, (10 - 1 + 6 - 1) / 2),
    ],
)
def test_a_day_from_noon_holds_what_the_hours_of_the_model_do(
    served: Served, off_peak_hours: float, all_hours: float
) -> None:
    capacity = supply(NOON, m=served).of(keys("m"))
    assert capacity.off_peak_seconds(NOON + DAY) == pytest.approx(off_peak_hours * HOUR)
    assert capacity.seconds(NOON + DAY) == pytest.approx(all_hours * HOUR)


def test_a_start_that_is_under_way_is_counted_and_one_that_is_over_is_not() -> None:
    night = NOON + 11 * HOUR
    asked = {"until": night + 2 * HOUR}
    ready, starting = (Served(Hours.OFF_PEAK, 600.0, is_ready=is_ready) for is_ready in (True, False))
    assert supply(night, m=ready).of(keys("m")).seconds(**asked) == 2 * HOUR
    assert supply(night, m=starting).of(keys("m")).seconds(**asked) == 2 * HOUR - 600


def test_work_on_models_of_different_hours_may_run_at_any_hour() -> None:
    found = supply(NOON, night=Served(Hours.OFF_PEAK), day=Served(Hours.PEAK)).of(keys("night", "day"))
    assert found.seconds(NOON + DAY) == supply(NOON).of(keys("other")).seconds(NOON + DAY)


@settings(deadline=None)  # a busy machine
@given(
    since=st.floats(1.76e9, 1.8e9),
    length=st.floats(1, 20 * DAY),
    start_seconds=st.floats(0, 10 * HOUR),
    is_ready=st.booleans(),
)
def test_capacity_is_what_the_model_serves(
    since: float, length: float, start_seconds: float, *, is_ready: bool
) -> None:
    served = Served(Hours.OFF_PEAK, start_seconds, is_ready=is_ready)
    expected = serving_seconds(
        Hours.OFF_PEAK,
        NIGHTS,
        since=since,
        until=since + length,
        start_seconds=start_seconds,
        is_ready=is_ready,
    )
    assert supply(since, m=served).of(keys("m")).seconds(since + length) == pytest.approx(expected, abs=1e-3)


@settings(deadline=None)  # a busy machine
@given(hours=st.sampled_from(Hours), start_seconds=st.floats(0, 10 * HOUR), steps=st.lists(st.floats(0, DAY)))
def test_later_deadlines_never_leave_less(hours: Hours, start_seconds: float, steps: list[float]) -> None:
    capacity = Capacity(
        NIGHTS, now=NOON, until=NOON + 9 * DAY, peak_share=0.4, hours=hours, opening_seconds=start_seconds
    )
    until, before = NOON, 0.0
    for step in steps:
        until += step
        after = capacity.seconds(until)
        assert after >= before - 1e-3
        before = after


# --- what the policies make of it


def batch(name: str, model: str, *, due_in_hours: float, lines: int = 3600) -> BatchRecord:
    return BatchRecord(
        name, "t", "/v1/chat/completions", "file-1", "24h", BatchStatus.IN_PROGRESS, int(NOON),
        int(NOON + due_in_hours * HOUR), OnDeadline.EXPIRE, {model: PinnedModel(model, "r")},
        counts=RequestCounts(total=lines),
    )  # fmt: skip


def held(found: BatchRecord, **served: Served) -> Holding:
    rates = dict.fromkeys(keys("night", "day"), 1.0)
    return holding([found], Hold(NIGHTS, 1.25, 600.0), now=NOON, seconds_per_line=rates, served=served)


def test_work_for_a_model_that_is_there_by_day_only_does_not_wait_for_the_night() -> None:
    found = batch("b", "day", due_in_hours=48)
    assert set(held(found).waits) == {"b"}
    assert not held(found, day=Served(Hours.PEAK)).waits


def test_the_starts_of_the_engine_are_part_of_what_a_night_must_suffice_for() -> None:
    found = batch("b", "night", due_in_hours=24, lines=int(5.5 * 3600))
    assert set(held(found, night=Served(Hours.OFF_PEAK, start_seconds=60.0)).waits) == {"b"}
    assert not held(found, night=Served(Hours.OFF_PEAK, start_seconds=2 * HOUR)).waits


def judged(hours_of_work: float, *, other_hours: float = 0.0, **served: Served) -> Remark | None:
    def job(name: str, model: str, hours: float) -> Job:
        seconds = hours * HOUR
        return Job(name, "t", "24h", NOON, NOON + DAY, 1, 1, seconds, seconds, 1.0, frozenset(keys(model)))

    found = supply(NOON, **served)
    own = job("own", "night", hours_of_work)
    return judge(
        own,
        [job("other", "second", other_hours)] if other_hours else [],
        capacity=found.of(own.models),
        peak_share=found.peak_share,
        waits_for_windows=False,
        tenant_weights={},
        zone=BERLIN,
        together=found.together,
    )


def test_admission_counts_only_the_hours_of_the_model_and_its_start() -> None:
    assert judged(8) is None
    assert judged(9) is None  # peak hours help
    half_an_hour = Served(Hours.OFF_PEAK, start_seconds=0.5 * HOUR)
    assert judged(7.4, night=half_an_hour) is None
    remark = judged(7.6, night=half_an_hour)
    assert remark is not None
    assert remark.message.startswith("The deadline cannot be promised: 7.5 h before the deadline at Wed 25 Nov 12:00")


def test_models_that_take_turns_are_judged_by_the_work_of_both() -> None:
    served = Served(Hours.OFF_PEAK, turns="gpu")
    assert judged(6, other_hours=6, night=Served(Hours.OFF_PEAK), second=Served(Hours.OFF_PEAK)) is None
    assert judged(6, other_hours=6, night=served, second=served) is not None


def test_models_of_different_hours_or_devices_are_judged_apart() -> None:
    served = {"night": Served(Hours.OFF_PEAK, turns="gpu"), "second": Served(Hours.ALWAYS, turns="gpu")}
    assert len(set(supply(NOON, **served).together.values())) == 2
    assert supply(NOON, night=Served(Hours.OFF_PEAK)).together == {}
    assert pools([], {"night": "gpu"}) == []


def test_the_order_of_batches_is_made_by_the_capacity_of_their_own_models() -> None:
    batches = [batch("n", "night", due_in_hours=24), batch("o", "other", due_in_hours=24)]
    snapshot = Snapshot(
        NOON, batches, (), (), (), {}, None, {}, calendar=NIGHTS, served={"night": Served(Hours.OFF_PEAK)}
    )
    queue = queue_of(snapshot)
    by_model = {job.batch_id: queue.capacity_of([job]).seconds(NOON + DAY) for job in queue.jobs}
    assert by_model["n"] == pytest.approx(8 * HOUR)
    assert by_model["o"] > by_model["n"]
