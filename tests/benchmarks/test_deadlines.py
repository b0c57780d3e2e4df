"""The deadlines benchmark: virtual time adds up, the baselines are what they are called, ours is the planner's code."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks import deadlines, deadlines_arms, deadlines_disciplines
from benchmarks.deadlines_clock import Ending, Run
from benchmarks.deadlines_planned import Planned
from benchmarks.deadlines_world import (
    HOUR,
    LINE_LATENCY_SECONDS,
    LINE_SECONDS,
    SLICE,
    START_AT,
    TIERS,
    WEEK,
    Job,
    Room,
    calendar,
    jobs,
    room,
)
from scheduler.policy.holding import Hold

EMPTY = Room([SLICE] * int(WEEK / SLICE), calendar())
"""A week without online requests."""


def job(name: str, *, at: float, hours: float, due_hours: float, tier: str = "24h") -> Job:
    created_at = START_AT + at * HOUR
    lines = round(hours * HOUR / LINE_SECONDS)
    return Job(name, "t", tier, created_at, created_at + due_hours * HOUR, lines, LINE_SECONDS)


def ours(found: Room) -> Planned:
    return Planned(found.calendar, Hold(found.calendar, 1.25, 600.0))


def ended_hours(endings: dict[str, Ending], name: str) -> float:
    """Since the first midnight, without the last line's own time."""
    return (endings[name].ended_at - LINE_LATENCY_SECONDS - START_AT) / HOUR


def test_online_load_leaves_less_by_day_than_by_night_and_never_less_than_nothing() -> None:
    left = room(weeks=1, peak_share=0.6)
    assert all(0 <= seconds <= SLICE for seconds in left.slices)
    by_night, by_day = left.slices[: int(5 * HOUR / SLICE)], left.slices[int(9 * HOUR / SLICE) : int(17 * HOUR / SLICE)]
    assert sum(by_night) / len(by_night) > 0.9 * SLICE
    assert sum(by_day) / len(by_day) < 0.5 * SLICE
    assert left.seconds == pytest.approx(sum(left.slices))
    assert 0.5 < left.off_peak_seconds / left.seconds < 0.8


def test_batches_need_the_work_that_was_asked_for_in_the_shares_of_their_tiers() -> None:
    found = jobs(weeks=1, work_seconds=200_000.0, estimates_off=0.3, seed=3)
    assert sum(one.work_seconds for one in found) == pytest.approx(200_000.0, rel=0.01)
    for tier in TIERS:
        mine = [one for one in found if one.tier == tier.name]
        assert sum(one.work_seconds for one in mine) == pytest.approx(tier.share * 200_000.0, rel=0.02)
        assert {one.deadline_at - one.created_at for one in mine} == {tier.deadline_seconds}
    assert all(0.7 * LINE_SECONDS <= one.seconds_per_line <= 1.3 * LINE_SECONDS for one in found)
    assert found == jobs(weeks=1, work_seconds=200_000.0, estimates_off=0.3, seed=3)


def test_first_come_first_served_lets_a_short_batch_wait_for_a_long_one() -> None:
    given = [job("long", at=0, hours=5, due_hours=48), job("short", at=1, hours=0.5, due_hours=2)]
    endings = Run(given, EMPTY, deadlines_disciplines.fcfs()).until_ended().endings
    assert ended_hours(endings, "long") == pytest.approx(5, abs=0.01)
    assert ended_hours(endings, "short") == pytest.approx(5.5, abs=0.01)
    assert endings["short"].missed
    assert not endings["long"].missed


def test_earliest_deadline_first_interrupts_the_long_one() -> None:
    given = [job("long", at=0, hours=5, due_hours=48), job("short", at=1, hours=0.5, due_hours=2)]
    endings = Run(given, EMPTY, deadlines_disciplines.edf()).until_ended().endings
    assert ended_hours(endings, "short") == pytest.approx(1.5, abs=0.01)
    assert ended_hours(endings, "long") == pytest.approx(5.5, abs=0.01)


def test_no_time_is_lost_and_none_is_spent_twice() -> None:
    left = room(weeks=1, peak_share=0.6)
    given = jobs(weeks=1, work_seconds=0.3 * left.off_peak_seconds, estimates_off=0.3, seed=5)
    for discipline in (deadlines_disciplines.fcfs(), deadlines_disciplines.edf(), ours(left)):
        record = Run(given, left, discipline).until_ended()
        assert record.endings.keys() == {one.id for one in given}
        assert sum(record.spent.values()) == pytest.approx(sum(one.work_seconds for one in given), rel=1e-6)
        assert all(spent <= left.slices[no % len(left.slices)] + 1e-6 for no, spent in record.spent.items())


def test_ours_lets_what_can_wait_run_by_night_and_what_is_due_by_day() -> None:
    given = [
        job("waits", at=10, hours=1, due_hours=24),
        job("due", at=10, hours=0.25, due_hours=1, tier="1h"),
    ]
    record = Run(given, EMPTY, ours(EMPTY)).until_ended()
    assert ended_hours(record.endings, "due") == pytest.approx(10.25, abs=0.02)
    assert ended_hours(record.endings, "waits") == pytest.approx(23, abs=0.02)
    by_day = sum(spent for no, spent in record.spent.items() if not calendar().open_at(START_AT + no * SLICE))
    assert by_day == pytest.approx(0.25 * HOUR, rel=0.01)


def test_ours_lets_a_small_batch_pass_a_large_one() -> None:
    given = [job("large", at=22, hours=6, due_hours=168, tier="7d"), job("small", at=23, hours=0.1, due_hours=24)]
    endings = Run(given, EMPTY, ours(EMPTY)).until_ended().endings
    assert ended_hours(endings, "small") < 23.3


def test_the_fluid_bound_says_how_much_more_work_would_still_be_in_time() -> None:
    given = [job("half", at=0, hours=12, due_hours=24)]
    weeks = deadlines_arms.Weeks(EMPTY, given, given, given[0].work_seconds)
    assert deadlines_arms.fluid_bound(weeks) == pytest.approx(2.0, abs=0.05)
    late = [replace(given[0], deadline_at=given[0].created_at + 6 * HOUR)]
    assert deadlines_arms.fluid_bound(replace(weeks, jobs=late)) == pytest.approx(0.5, abs=0.05)


def test_the_benchmark_needs_no_engine_and_says_so() -> None:
    assert deadlines.main(["--model", "some/model"]) == 1
    assert deadlines.main(["--load", "2"]) == 1


def test_a_report_has_the_figures_that_are_promised() -> None:
    """On weeks with few batches, which takes seconds."""
    left = room(weeks=deadlines_arms.WEEKS, peak_share=0.6)
    weeks = deadlines_arms.weeks(left, work_seconds=0.05 * left.off_peak_seconds, estimates_off=0.3, seed=1)
    runs = {name: [deadlines_arms.measure(weeks, name)] for name in deadlines_arms.DISCIPLINES}
    result = deadlines.Result([weeks], runs, [deadlines_arms.fluid_bound(weeks)])
    report = deadlines.report({deadlines.WINDOWS: result, deadlines.WHOLE_WEEK: result}, 0.05, 0.3)
    assert {"misses_ours", "misses_edf", "misses_fcfs", "off_peak_share", "stretch_p95"} <= report.figures.keys()
    assert report.figures["misses_ours"].value == 0
    assert report.figures["misses_ours"].n == len(weeks.measured)
    assert report.figures["off_peak_lead"].value > 20
    assert len(report.arms) == 2 * len(deadlines_arms.DISCIPLINES)
    assert min(runs["fcfs"][0].stretch) > 0.999
