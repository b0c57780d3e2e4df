"""What can be promised, with its arithmetic, and what becomes of a batch that cannot be in time."""

from __future__ import annotations

import json
import time as clock
from datetime import UTC, time

import pytest

from scheduler.facts.capacity import Capacity
from scheduler.facts.durations import duration
from scheduler.facts.windows import Calendar, Window
from scheduler.facts.work import Job, ModelKey
from scheduler.policy.admission import Remark, as_warnings, judge
from scheduler.policy.terms import OnInfeasible, Terms
from store import BatchStatus
from tests.scheduler.world import TestEngine, World, chats, running

HOUR, DAY = 3600.0, 86_400.0
NOW = 1_774_346_400.0
"""Tuesday 24 March 2026, 10:00 UTC."""

NIGHT = Calendar((Window("night", frozenset(range(7)), time(22), time(6), UTC),), zone=UTC)
CHAT = frozenset({ModelKey("chat", "r1")})


def a_job(name: str, *, hours: float | None, due_in: float, tenant: str = "t") -> Job:
    seconds = None if hours is None else hours * HOUR
    return Job(name, tenant, "24h", NOW, NOW + due_in * HOUR, 1000, 1000, seconds, seconds, 1.0, CHAT)


def judged(job: Job, *others: Job, calendar: Calendar = NIGHT, waits: bool = True) -> Remark | None:
    return judge(
        job,
        others,
        capacity=Capacity(calendar, now=NOW, until=NOW + 7 * DAY, peak_share=0.5),
        peak_share=0.5,
        waits_for_windows=waits,
        tenant_weights={},
        zone=UTC,
    )


def test_a_batch_that_fits_into_the_windows_is_taken_without_a_word() -> None:
    assert judged(a_job("a", hours=7, due_in=24)) is None


def test_more_work_than_there_is_time_for_is_told_with_the_arithmetic() -> None:
    assert judged(a_job("a", hours=31, due_in=24)) == Remark(
        "deadline_infeasible",
        "The deadline cannot be promised: 8 h of window before the deadline at Wed 25 Mar 10:00 (UTC), and 16 h of "
        "peak hours at 50% of the rate; 31 h of work.",
    )


def test_what_is_due_before_it_counts_and_is_told() -> None:
    remark = judged(a_job("a", hours=12, due_in=24), a_job("b", hours=9, due_in=20))
    assert remark is not None
    assert remark.message.endswith("; 21 h of work: 12 h of this batch, 9 h that is due before it.")
    assert judged(a_job("a", hours=12, due_in=24), a_job("b", hours=90, due_in=160), waits=False) is None


def test_without_windows_there_are_no_peak_hours_to_tell_of() -> None:
    assert judged(a_job("a", hours=25, due_in=24), calendar=Calendar()) == Remark(
        "deadline_infeasible",
        "The deadline cannot be promised: 24 h before the deadline at Wed 25 Mar 10:00 (UTC); 25 h of work.",
    )


def test_a_batch_that_breaks_an_earlier_promise_to_its_own_tenant_is_told_which() -> None:
    """Due before the other, so that it is the other one that would be late."""
    remark = judged(a_job("new", hours=6, due_in=20), a_job("earlier", hours=12, due_in=24))
    assert remark is not None
    assert remark.message.endswith("With it, batch earlier of the same tenant would miss its own deadline.")


def test_a_tenant_within_its_share_is_not_turned_away_because_another_has_filled_the_queue() -> None:
    flood = [a_job(f"f{no}", hours=5, due_in=24, tenant="flood") for no in range(10)]
    assert judged(a_job("a", hours=3, due_in=24, tenant="small"), *flood, waits=False) is None
    assert judged(a_job("a", hours=3, due_in=24, tenant="flood"), *flood, waits=False) is not None


def test_a_batch_for_which_the_windows_are_too_short_is_told_that_it_runs_in_peak_hours() -> None:
    remark = judged(a_job("a", hours=10, due_in=24))
    assert remark == Remark(
        "runs_in_peak_hours",
        "8 h of window before the deadline, 10 h of work: it will also run in peak hours, below online requests.",
    )
    assert judged(a_job("a", hours=10, due_in=24), waits=False) is None


def test_nothing_is_said_while_no_rate_is_known() -> None:
    assert judged(a_job("a", hours=None, due_in=0.1)) is None


def test_a_remark_is_kept_as_a_list_of_warnings() -> None:
    assert json.loads(as_warnings(Remark("code", "text")) or "") == [{"code": "code", "message": "text"}]
    assert as_warnings(None) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"), (0.4, "0.4 s"), (12, "12 s"), (89, "89 s"), (90, "1.5 min"), (1500, "25 min"), (3600, "60 min"),
        (5400, "1.5 h"), (8 * 3600, "8 h"), (31 * 3600, "31 h"), (9 * 86_400, "9 d"), (5000 * 86_400, "5,000 d"),
    ],
)  # fmt: skip
def test_a_duration_has_two_digits_and_its_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize("action", list(OnInfeasible))
async def test_a_deadline_that_cannot_be_kept_is_a_warning_or_a_refusal(
    world: World, engine: TestEngine, action: OnInfeasible
) -> None:
    """The rate is that of a first batch; the second would take an hour and is due in half a minute."""
    engine.answer_seconds = 0.4
    first = await world.batch(chats(200))
    async with running(world.scheduler(terms=Terms(on_infeasible=action))):
        await world.until(first, lambda seen: seen.counts.completed >= 100)
        late = await world.batch(chats(20_000), expires_at=int(clock.time()) + 30)
        seen = await world.until(late, lambda seen: seen.status is not BatchStatus.VALIDATING)
    if action is OnInfeasible.REFUSE:
        assert seen.status is BatchStatus.FAILED
        assert [(error.code, error.param, error.line) for error in seen.errors] == [
            ("deadline_infeasible", "completion_window", None)
        ]
        assert "The deadline cannot be promised" in seen.errors[0].message
    else:
        assert seen.status is BatchStatus.IN_PROGRESS
        assert [warning["code"] for warning in json.loads(seen.warnings or "[]")] == ["deadline_infeasible"]
