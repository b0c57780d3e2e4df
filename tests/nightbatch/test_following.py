"""Waiting for a batch: a server that goes away and comes back is waited for, one that stays away is not."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from openai.types import Batch

from nightbatch.client import ClientError
from nightbatch.following import OUTAGE_SECONDS_MAX, follow


def batch(status: str, done: int = 0, total: int = 10) -> Batch:
    return Batch.construct(id="batch_a", status=status, request_counts={"total": total, "completed": done, "failed": 0})


@dataclass
class Watch:
    """One run of `follow` over a list of answers, in a world where sleeping is what makes time pass."""

    ended: Batch
    notes: list[str]
    seconds: float


def followed(*answers: Batch | ClientError) -> Watch:
    script = iter(answers)
    notes: list[str] = []
    clock = 0.0

    def fetch(_: str) -> Batch:
        answer = next(script)
        if isinstance(answer, ClientError):
            raise answer
        return answer

    def sleep(seconds: float) -> None:
        nonlocal clock
        clock += seconds

    start = batch("validating", total=0)
    ended = follow(fetch, start, lambda _, note: notes.append(note), sleep=sleep, monotonic=lambda: clock)
    return Watch(ended, notes, clock)


def test_it_reports_each_step_and_ends_with_the_batch() -> None:
    watch = followed(batch("in_progress"), batch("in_progress", 4), batch("completed", 10))
    assert watch.ended.status == "completed"
    assert watch.notes == ["validating", "in_progress  0/10", "in_progress  4/10", "completed  10/10"]


def test_a_server_that_comes_back_is_waited_for() -> None:
    watch = followed(ClientError("gone"), ClientError("no", status_code=503), batch("completed", 10))
    assert watch.ended.status == "completed"
    assert sum("does not answer" in note for note in watch.notes) == 2


def test_a_server_that_stays_away_is_given_up_on() -> None:
    with pytest.raises(ClientError, match="gone"):
        followed(*[ClientError("gone")] * int(OUTAGE_SECONDS_MAX))


def test_a_batch_that_is_no_longer_known_ends_the_wait_at_once() -> None:
    with pytest.raises(ClientError, match="No such batch"):
        followed(ClientError("No such batch", status_code=404))


def test_a_small_batch_is_seen_to_be_done_soon() -> None:
    watch = followed(batch("in_progress"), batch("in_progress", 4), batch("completed", 10))
    assert watch.seconds < 0.25


def test_a_batch_that_goes_on_is_asked_for_four_times_a_second_and_no_more() -> None:
    watch = followed(*[batch("in_progress", done) for done in range(1, 100)], batch("completed", 100))
    assert 20 < watch.seconds <= 25


def test_a_quiet_batch_is_asked_for_less_and_less_often() -> None:
    watch = followed(*[batch("in_progress")] * 40, batch("completed", 10))
    assert watch.seconds > 40
