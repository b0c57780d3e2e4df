"""Small calls with rests, prompts one after another, and what is taken back: the parts of yielding from outside."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.policy.duty import UNMEASURED_REQUESTS, Call, CallMeter, DutySettings, Rounds, call_requests
from scheduler.policy.prefills import Prefills
from scheduler.policy.taking_back import Credit, Flying, TakeBackSettings, to_take_back


@pytest.mark.parametrize(
    ("ms_each", "expected"), [(None, UNMEASURED_REQUESTS), (1.6, 31), (50.0, 1), (900.0, 1), (0.0, UNMEASURED_REQUESTS)]
)
def test_a_call_has_as_many_requests_as_its_time_allows(ms_each: float | None, expected: int) -> None:
    assert call_requests(ms_each, step_ms_target=50.0) == expected


def test_a_call_is_followed_by_a_rest_that_keeps_its_share_of_the_time() -> None:
    rounds, call = Rounds(), Call(4, 0.25)
    for _ in range(4):
        assert rounds.fits(1, call, now=10.0)
        rounds.sent(1, now=10.0)
    assert not rounds.fits(1, call, now=10.0)
    for left in (3, 2, 1, 0):
        rounds.ended(call, is_idle=left == 0, now=10.1)
    assert rounds.rest_until == pytest.approx(10.4)
    assert not rounds.fits(1, call, now=10.3)
    assert rounds.fits(1, call, now=10.41)


def test_a_call_is_not_refilled_once_it_answers() -> None:
    rounds, call = Rounds(), Call(4, 0.25)
    rounds.sent(2, now=0.0)
    rounds.ended(call, is_idle=False, now=0.1)
    assert not rounds.fits(1, call, now=0.1)


def test_a_request_larger_than_a_call_is_one_by_itself() -> None:
    rounds, call = Rounds(), Call(4, 0.25)
    assert rounds.fits(900, call, now=0.0)
    rounds.sent(900, now=0.0)
    assert not rounds.fits(1, call, now=0.0)


def test_without_a_bound_no_rest_follows() -> None:
    rounds = Rounds()
    rounds.sent(4, now=0.0)
    rounds.ended(None, is_idle=True, now=1.0)
    assert rounds.rest_until == 0.0


def test_hours_of_work_before_the_bound_are_no_call_that_a_rest_follows() -> None:
    rounds = Rounds()
    for second in range(7200):  # the batch has the engine to itself, and it is never idle
        rounds.sent(1, now=float(second))
        if second:
            rounds.ended(None, is_idle=False, now=float(second))
    rounds.ended(Call(4, 0.25), is_idle=True, now=7200.0)
    assert rounds.rest_until <= 7204.0


@given(st.integers(1, 64), st.floats(0.05, 1.0), st.lists(st.tuples(st.integers(1, 40), st.floats(0.001, 2.0))))
def test_calls_never_take_more_than_their_share(requests: int, share: float, work: list[tuple[int, float]]) -> None:
    rounds, call, now, busy = Rounds(), Call(requests, share), 0.0, 0.0
    for size, seconds in work:
        if not rounds.fits(size, call, now=now):
            now = rounds.rest_until
        assert rounds.fits(size, call, now=now)
        rounds.sent(size, now=now)
        now, busy = now + seconds, busy + seconds
        rounds.ended(call, is_idle=True, now=now)
    assert busy <= share * max(now, rounds.rest_until) * 1.001 + 1e-9


def test_the_time_of_one_request_is_measured_while_the_engine_has_several() -> None:
    meter = CallMeter()
    meter.sent(0.0)
    for left in range(31, -1, -1):
        meter.answered(1, is_idle=left == 0, now=0.064)
    assert meter.ms_each == pytest.approx(2.0)
    meter.sent(5.0)  # the pause between is no work
    meter.answered(32, is_idle=True, now=5.128)
    assert meter.ms_each == pytest.approx(2.4)


def test_a_batch_that_never_leaves_the_engine_idle_is_measured_too() -> None:
    meter = CallMeter()
    meter.sent(0.0)
    for turn in range(1, 11):
        meter.answered(10, is_idle=False, now=turn / 10)
    assert meter.ms_each == pytest.approx(10.0)


# --- prompts


def test_prompts_beside_online_requests_are_read_one_after_another() -> None:
    prefills = Prefills(ms_per_token=2.0)
    assert prefills.free_at(1, now=0.0) <= 0.0
    prefills.started(500, step_ms=30.0, now=0.0)
    assert prefills.unfinished(now=0.5) == 1
    assert prefills.free_at(1, now=0.5) == pytest.approx(1.0)
    assert prefills.free_at(2, now=0.5) <= 0.5
    assert prefills.unfinished(now=1.1) == 0


def test_a_prompt_takes_at_least_one_step() -> None:
    prefills = Prefills()
    prefills.started(10, step_ms=30.0, now=0.0)
    assert prefills.free_at(1, now=0.0) == pytest.approx(0.03)


def test_the_time_of_a_prompt_is_learned_from_answers_that_are_mostly_prompt() -> None:
    prefills = Prefills()
    for _ in range(100):
        prefills.answered(1000, seconds=2.0, output_tokens=4, step_ms=50.0)
    assert prefills.ms_per_token == pytest.approx(1.8, rel=0.01)
    for _ in range(100):
        prefills.answered(1000, seconds=6.0, output_tokens=110, step_ms=50.0)  # half a second: an error of the rest
    assert prefills.ms_per_token == pytest.approx(1.8, rel=0.01)


@pytest.mark.parametrize(("tokens", "seconds", "step_ms"), [(0, 1.0, 50.0), (10, 0.0, 50.0), (10, 1.0, 0.0)])
def test_what_cannot_be_judged_teaches_nothing(tokens: int, seconds: float, step_ms: float) -> None:
    prefills = Prefills()
    prefills.answered(tokens, seconds=seconds, output_tokens=1, step_ms=step_ms)
    assert prefills.ms_per_token == 0.0


# --- taking back

TAKE = TakeBackSettings()


def test_the_youngest_are_taken_back_until_the_bound_is_kept() -> None:
    flying = [Flying(1, seconds) for seconds in (9.0, 1.0, 5.0, 0.5, 7.0, 3.0)]
    assert to_take_back(flying, cap=2, credit=Credit(100.0), settings=TAKE) == [3, 1, 5, 2]


def test_little_above_the_bound_everything_may_end_by_itself() -> None:
    flying = [Flying(1, 1.0)] * 4
    assert to_take_back(flying, cap=2, credit=Credit(100.0), settings=TAKE) == []


def test_no_more_work_is_lost_than_was_saved_up() -> None:
    flying = [Flying(1, 1.0), Flying(1, 2.0), Flying(1, 3.0), Flying(1, 4.0)]
    credit = Credit(3.5)
    assert to_take_back(flying, cap=1, credit=credit, settings=TAKE) == [0, 1]
    assert credit.seconds == pytest.approx(0.5)


def test_a_line_is_taken_back_only_so_often() -> None:
    flying = [Flying(1, 1.0, taken_back=3), Flying(1, 2.0), Flying(1, 3.0)]
    assert to_take_back(flying, cap=1, credit=Credit(100.0), settings=TAKE) == [1, 2]


def test_what_is_larger_than_the_excess_stays() -> None:
    flying = [Flying(16, 1.0), Flying(1, 2.0), Flying(1, 3.0)]
    assert to_take_back(flying, cap=8, credit=Credit(100.0), settings=TAKE) == [1, 2]


def test_what_is_still_being_read_is_taken_back_however_little_is_in_flight() -> None:
    flying = [Flying(1, 9.0), Flying(1, 2.0, is_reading=True), Flying(1, 1.0)]
    assert to_take_back(flying, cap=8, credit=Credit(100.0), settings=TAKE) == [1]
    assert to_take_back(flying, cap=1, credit=Credit(100.0), settings=TAKE) == [1, 2]
    assert to_take_back(flying, cap=8, credit=Credit(1.0), settings=TAKE) == []


def test_a_share_of_nothing_takes_nothing_back() -> None:
    credit, settings = Credit(), TakeBackSettings(share_max=0.0)
    credit.earn(64, 3600.0, settings)
    assert to_take_back([Flying(1, 1.0)] * 64, cap=1, credit=credit, settings=settings) == []


@given(
    st.lists(
        st.builds(Flying, st.integers(1, 20), st.floats(0.0, 100.0), st.integers(0, 4), st.booleans()), max_size=60
    ),
    st.integers(1, 40),
    st.floats(0.0, 1000.0),
)
def test_taking_back_keeps_the_bound_full_and_pays_for_what_it_takes(
    flying: list[Flying], cap: int, saved: float
) -> None:
    credit = Credit(saved)
    taken = to_take_back(flying, cap=cap, credit=credit, settings=TAKE)
    assert len(set(taken)) == len(taken)
    decoding = [place for place in taken if not flying[place].is_reading]
    left = sum(one.requests for one in flying) - sum(flying[place].requests for place in taken)
    assert not decoding or left >= cap
    paid = sum(flying[place].requests * flying[place].seconds for place in taken)
    assert credit.seconds == pytest.approx(saved - paid, abs=1e-6)
    assert credit.seconds >= -1e-9


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (DutySettings, {"step_ms_target": 0.0}),
        (DutySettings, {"share_max": 0.0}),
        (DutySettings, {"share_max": 1.5}),
        (DutySettings, {"idle_calls_max": 0}),
        (TakeBackSettings, {"above": 0.5}),
        (TakeBackSettings, {"share_max": 1.0}),
        (TakeBackSettings, {"per_line_max": -1}),
    ],
)
def test_settings_of_these_that_make_no_sense_are_refused(kind: type, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        kind(**wrong)
