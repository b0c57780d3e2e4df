"""Slack, and what a passed deadline means."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.facts.deadlines import must_expire, newly_missed, slack_seconds
from store import OnDeadline, RequestCounts
from tests.scheduler.test_planner import a_batch


def test_slack_is_time_left_minus_work_left() -> None:
    batch = replace(a_batch("a", expires_at=2_000), counts=RequestCounts(100, 30, 10))
    assert slack_seconds(batch, now=1_000, seconds_per_line=0.5) == 970
    assert slack_seconds(batch, now=1_990, seconds_per_line=0.5) == -20


@pytest.mark.parametrize(
    ("on_deadline", "now", "missed_at", "expires", "missed"),
    [
        (OnDeadline.EXPIRE, 1_999.9, None, False, False),
        (OnDeadline.EXPIRE, 2_000.0, None, True, False),
        (OnDeadline.CONTINUE, 2_000.0, None, False, True),
        (OnDeadline.CONTINUE, 2_000.0, 2_000, False, False),
        (OnDeadline.CONTINUE, 1_000.0, None, False, False),
    ],
)
def test_a_deadline_expires_or_is_noted_once(
    on_deadline: OnDeadline, now: float, missed_at: int | None, expires: bool, missed: bool
) -> None:
    batch = replace(a_batch("a", expires_at=2_000), on_deadline=on_deadline, deadline_missed_at=missed_at)
    assert must_expire(batch, now=now) is expires
    assert newly_missed(batch, now=now) is missed
