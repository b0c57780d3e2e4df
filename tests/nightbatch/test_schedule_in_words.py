"""A batch's schedule in words."""

from __future__ import annotations

from typing import Any

import pytest

from nightbatch.commands.progress import seconds
from nightbatch.explaining import rows

ENGINE = {
    "name": "sim",
    "state": "ready",
    "reason": None,
    "online_requests": 2,
    "neighbour_requests": 0,
    "batch_requests": 3,
    "batch_requests_max": 4,
    "pressure": "online requests are on this engine",
}
SCHEDULE: dict[str, Any] = {
    "batch_id": "batch_1",
    "status": "in_progress",
    "state": "waiting",
    "reason": "Waits for the off-peak window 'night'.",
    "as_of": 1,
    "completion_window": "24h",
    "expires_at": 9,
    "on_deadline": "expire",
    "lines_left": 1_200,
    "lines_in_flight": 0,
    "work_seconds": 7_200.0,
    "slack_seconds": 3_600.0,
    "spare_seconds": -60.0,
    "starts_at": 4,
    "ends_at": 6,
    "queue": {
        "place": 2,
        "of": 3,
        "ahead_total": 1,
        "ahead": ["batch_0"],
        "ahead_seconds": 120.0,
        "turn_reason": "Short ones first.",
    },
    "window": {"name": "night", "opens_at": 4, "closes_at": None},
    "engines": [ENGINE],
    "disk": None,
}
BARE: dict[str, Any] = {
    **SCHEDULE,
    "state": "ended",
    "status": "completed",
    "lines_left": 0,
    "work_seconds": None,
    "slack_seconds": None,
    "spare_seconds": None,
    "starts_at": None,
    "ends_at": None,
    "queue": {
        "place": None, "of": 0, "ahead_total": 0, "ahead": [], "ahead_seconds": None, "turn_reason": None
    },
    "window": None,
    "engines": [],
}  # fmt: skip


def said(schedule: dict[str, Any]) -> dict[str, str]:
    return dict(rows(schedule, moment=lambda at: f"<{at}>", span=seconds))


def test_everything_that_is_known_is_said() -> None:
    assert said(SCHEDULE) == {
        "batch": "batch_1",
        "is": "waiting (in_progress)",
        "why": "Waits for the off-peak window 'night'.",
        "deadline": "<9>, tier 24h; it ends with what it has",
        "slack": "1 h if it ran alone; 1 min too little with all that is due before it",
        "work left": "1,200 lines, 0 of them in flight; about 2 h at the measured rate",
        "place": "2 of 3, 1 ahead on the same model with 2 min of work",
        "ahead": "batch_0",
        "order": "Short ones first.",
        "window": "night opens at <4>",
        "engine": "sim is ready; online requests: 2 on it, 0 beside it; "
        "batch requests: 3 of 4 (online requests are on this engine)",
        "starts about": "<4>",
        "ends about": "<6>",
        "seen": "<1>",
    }


def test_what_is_not_known_is_left_out() -> None:
    assert list(said(BARE)) == ["batch", "is", "why", "deadline", "seen"]


@pytest.mark.parametrize(
    ("changed", "name", "says"),
    [
        ({"slack_seconds": -60}, "slack", "none: 1 min too little even if it ran alone; 1 min too little with"),
        ({"spare_seconds": None}, "slack", "1 h if it ran alone"),
        ({"on_deadline": "continue"}, "deadline", "it goes on past it"),
        ({"window": {"name": "night", "opens_at": None, "closes_at": 5}}, "window", "night is open until <5>"),
        ({"engines": [{**ENGINE, "state": "down", "reason": "since 03:10", "online_requests": 0,
                       "batch_requests_max": None}]}, "engine", "sim is down (since 03:10)"),
        ({"disk": "The disk is below its reserve."}, "disk", "below its reserve"),
    ],
)  # fmt: skip
def test_each_figure_reads_as_what_it_means(changed: dict[str, Any], name: str, says: str) -> None:
    assert says in said({**SCHEDULE, **changed})[name]
