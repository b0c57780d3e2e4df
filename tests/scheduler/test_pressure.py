"""The bound on batch work beside online requests, judged from outside an engine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.slo import Slo
from scheduler.policy.pressure import (
    REASONS,
    Phase,
    Pressure,
    PressureSettings,
    Signs,
    decide,
    linger_seconds,
    step_ms_target,
)
from scheduler.policy.step_fit import StepFit
from scheduler.policy.stress import stress

SETTINGS = PressureSettings()
BASE_MS, EACH_MS = 14.2, 1.905


def a_fit(base_ms: float = BASE_MS, each_ms: float = EACH_MS) -> StepFit:
    """What is known of an engine after it has run with few and with many requests."""
    fit = StepFit()
    for running in (1, 8, 64):
        for _ in range(5):
            fit = fit.seen(running, base_ms + each_ms * running, now=0.0)
    return fit


def signs(**changed: Any) -> Signs:
    """A chat engine of 64 slots, full of batch work, with one online request."""
    fit = changed.pop("fit", a_fit())
    usual: dict[str, Any] = {
        "now": 100.0,
        "online": 1,
        "beside": 0,
        "quiet_seconds": 0.0,
        "inflight": 96,
        "inflight_max": 96,
        "slots": 64,
        "others": 1,
        "fit": fit,
        "step_ms_target": step_ms_target(fit, Slo(), SETTINGS),
    }
    return Signs(**(usual | changed))


QUIET = {"online": 0, "others": 0}


def test_an_engine_that_never_had_an_online_request_is_the_batchs_alone() -> None:
    assert decide(Pressure(), signs(**QUIET, quiet_seconds=None), SETTINGS).cap is None


def test_an_engine_is_the_batchs_again_when_the_last_online_request_is_long_ago() -> None:
    beside = decide(Pressure(), signs(), SETTINGS)
    rising = decide(beside, signs(**QUIET, now=219.0, quiet_seconds=119.0), SETTINGS)
    assert rising.cap is not None
    assert decide(rising, signs(**QUIET, now=221.0, quiet_seconds=121.0), SETTINGS).cap is None


def test_the_first_online_request_cuts_the_bound_at_once_to_what_its_step_may_take() -> None:
    cut = decide(Pressure(), signs(), SETTINGS)
    assert cut.phase is Phase.BESIDE
    assert cut.cap == 8  # 14.2 + 1.905 * (8 + 1) is twice 14.2 + 1.905, nearly
    assert BASE_MS + EACH_MS * (cut.cap + 1) <= 2 * (BASE_MS + EACH_MS)


@pytest.mark.parametrize("presence", [{}, {"online": 0, "others": 0, "beside": 1}])
def test_a_bound_that_was_cut_comes_back_when_nothing_is_felt_any_more(presence: dict[str, int]) -> None:
    """Online requests that are not streamed tell nothing, and an upstream may never have a quiet minute."""
    unknown: dict[str, Any] = {"fit": StepFit(), "step_ms_target": None, "slots": None, "inflight": 1, **presence}
    state = Pressure()
    for second in range(30):
        state = decide(state, signs(now=100.0 + second, stress=4.0, **unknown), SETTINGS)
    assert state.cap == 1
    for second in range(30, 1200):
        state = decide(state, signs(now=100.0 + second, **unknown), SETTINGS)
    assert state.cap == SETTINGS.inflight_untrusted


def test_more_online_requests_leave_less_room() -> None:
    caps = [decide(Pressure(), signs(online=n, others=n), SETTINGS).cap for n in (1, 4, 8, 30)]
    assert caps == [8, 5, 1, 1]


def test_an_slo_in_milliseconds_counts_instead_of_the_factor() -> None:
    fit = a_fit()
    tight, loose = (step_ms_target(fit, Slo(itl_ms_p99=ms), SETTINGS) for ms in (25.0, 100.0))
    assert decide(Pressure(), signs(step_ms_target=tight), SETTINGS).cap == 1
    assert decide(Pressure(), signs(step_ms_target=loose), SETTINGS).cap == 28


def test_an_slo_below_what_the_engine_does_alone_still_leaves_the_least() -> None:
    assert decide(Pressure(), signs(step_ms_target=1.0), SETTINGS).cap == SETTINGS.inflight_min


@pytest.mark.parametrize(("slots", "expected"), [(64, 62), (None, 94), (3, 1), (1, 1)])
def test_the_last_slots_are_never_the_batchs_while_online_requests_are_about(slots: int | None, expected: int) -> None:
    flat = a_fit(5.0, 0.0)
    assert decide(Pressure(), signs(fit=flat, slots=slots), SETTINGS).cap == expected


def test_before_step_times_are_known_a_fixed_bound_stands_in() -> None:
    blind = signs(fit=StepFit(), step_ms_target=None)
    assert decide(Pressure(), blind, SETTINGS).cap == SETTINGS.inflight_untrusted


def test_online_requests_on_another_engine_of_the_device_bound_this_one() -> None:
    found = decide(Pressure(), signs(online=0, beside=2, others=0), SETTINGS)
    assert (found.phase, found.cap) == (Phase.NEIGHBOUR, SETTINGS.inflight_untrusted)


def settled(pressure: Pressure, **changed: Any) -> Pressure:
    """Some evaluations later, with as much in flight as the bound allows."""
    for turn in range(1, 8):
        cap = pressure.cap or 0
        pressure = decide(pressure, signs(now=pressure.at + 0.4, inflight=cap, **changed), SETTINGS)
        assert turn
    return pressure


def test_what_online_requests_feel_moves_the_bound_down_fast_and_up_slowly() -> None:
    start = settled(decide(Pressure(), signs(), SETTINGS), stress=1.0)
    assert start.cap == 8
    slow, fast = settled(start, stress=2.0), settled(start, stress=0.4)
    assert slow.cap is not None
    assert fast.cap is not None
    assert slow.cap <= 3
    assert 8 < fast.cap <= 11


@pytest.mark.parametrize("felt", [0.76, 1.0, 1.24])
def test_within_the_band_nothing_moves(felt: float) -> None:
    start = settled(decide(Pressure(), signs(), SETTINGS), stress=1.0)
    assert settled(start, stress=felt).trim == 1.0


def test_a_second_cut_waits_until_the_first_has_drained() -> None:
    full = decide(Pressure(), signs(), SETTINGS)
    for turn in range(1, 20):
        full = decide(full, signs(now=100 + turn, inflight=60, stress=4.0), SETTINGS)
    assert full.trim == 1.0


def test_waiting_requests_cut_the_bound_of_an_engine_that_does_not_tell_its_slots() -> None:
    start = settled(decide(Pressure(), signs(slots=None), SETTINGS), slots=None)
    assert start.cap == 8
    waiting = settled(start, slots=None, waiting=3)
    assert waiting.cap is not None
    assert waiting.cap < 4


def test_the_bound_stays_for_a_usual_gap_and_then_rises_slowly() -> None:
    seen = replace(decide(Pressure(), signs(), SETTINGS), gap_seconds=2.0)
    lingering = decide(seen, signs(**QUIET, now=101.0, quiet_seconds=1.0), SETTINGS)
    assert (lingering.phase, lingering.cap) == (Phase.LINGERING, seen.cap)
    rising = decide(lingering, signs(**QUIET, now=102.5, quiet_seconds=2.5), SETTINGS)
    assert rising.phase is Phase.RISING
    assert rising.cap is not None
    assert seen.cap is not None
    assert seen.cap < rising.cap <= seen.cap + 1.5 * 62 / SETTINGS.refill_seconds
    for turn in range(200):
        rising = decide(rising, signs(**QUIET, now=103 + turn / 4, quiet_seconds=3 + turn / 4), SETTINGS)
    assert rising.cap == 34  # a step of five times what it takes alone: the next online request waits for it


@given(st.lists(st.floats(0.01, 60.0), min_size=1, max_size=30))
def test_the_usual_gap_lies_between_the_shortest_and_the_longest(gaps: Sequence[float]) -> None:
    pressure, now = decide(Pressure(), signs(), SETTINGS), 100.0
    for gap in gaps:
        now += 1.0
        pressure = decide(pressure, signs(**QUIET, now=now, quiet_seconds=gap), SETTINGS)
        pressure = decide(pressure, signs(now=now), SETTINGS)
    assert pressure.gap_seconds is not None
    assert min(gaps) * 0.999 <= pressure.gap_seconds <= max(gaps) * 1.001
    assert SETTINGS.linger_seconds_min <= linger_seconds(pressure, SETTINGS) <= SETTINGS.linger_seconds_max


moments = st.fixed_dictionaries(
    {
        "after": st.floats(0.0, 300.0),
        "online": st.integers(0, 40),
        "beside": st.integers(0, 5),
        "quiet_seconds": st.one_of(st.none(), st.floats(0.0, 1000.0)),
        "inflight": st.integers(0, 400),
        "inflight_max": st.integers(1, 400),
        "slots": st.one_of(st.none(), st.integers(1, 400)),
        "others": st.integers(0, 400),
        "waiting": st.integers(0, 100),
        "stress": st.one_of(st.none(), st.floats(0.0, 1e6)),
        "step_ms_target": st.one_of(st.none(), st.floats(0.0, 1e4)),
        "fit": st.builds(a_fit, st.floats(0.01, 1000.0), st.floats(0.0, 100.0)),
    }
)


@settings(deadline=None)
@given(st.lists(moments, min_size=1, max_size=20))
def test_whatever_happens_the_bound_lets_a_batch_go_on_and_never_fills_the_engine(seen: list[dict[str, Any]]) -> None:
    pressure, now = Pressure(), 0.0
    for moment in seen:
        now += moment.pop("after")
        at = Signs(now=now, **moment)
        pressure = decide(pressure, at, SETTINGS)
        assert pressure.phase in REASONS
        if pressure.cap is None:
            assert at.online == 0
            assert at.beside == 0
            continue
        assert SETTINGS.inflight_min <= pressure.cap
        assert pressure.cap <= max(SETTINGS.inflight_min, at.room - SETTINGS.online_slots)
        assert SETTINGS.trim_min <= pressure.trim <= SETTINGS.trim_max
        assert math.isfinite(pressure.level)


@settings(deadline=None, max_examples=40)
@given(st.floats(2.0, 40.0), st.floats(0.05, 4.0), st.floats(0.5, 2.0))
def test_the_bound_settles_where_online_requests_feel_what_they_should(base: float, each: float, error: float) -> None:
    """A closed loop: an engine whose true step times differ from the fit by up to a factor of two."""
    fit, target = a_fit(base, each), 2 * (base + each)
    pressure, caps = decide(Pressure(), signs(fit=fit, step_ms_target=target), SETTINGS), []
    for turn in range(400):
        cap = pressure.cap or 0
        felt = (base + each * (cap + 1)) * error / target
        at = signs(now=100.0 + turn * 0.5, inflight=cap, stress=felt, fit=fit, step_ms_target=target)
        pressure = decide(pressure, at, SETTINGS)
        caps.append(pressure.cap or 0)
    last = caps[-40:]
    assert max(last) - min(last) <= 1 + max(last) * 0.35, "the bound swings"
    felt = (base + each * (last[-1] + 1)) * error / target
    at_floor, at_ceiling = last[-1] == 1, last[-1] >= 62 or pressure.trim == SETTINGS.trim_max
    assert at_floor or felt <= SETTINGS.stress_high + 0.2
    assert at_ceiling or felt >= SETTINGS.stress_low - 0.35


@pytest.mark.parametrize(
    "wrong",
    [
        {"inflight_min": 0},
        {"inflight_untrusted": 1, "inflight_min": 2},
        {"online_slots": -1},
        {"stress_low": 1.2},
        {"stress_high": 0.9},
        {"idle_factor": 1.0},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        PressureSettings(**wrong)


# --- what online requests felt


@pytest.mark.parametrize(
    ("gaps", "ttfts", "slo", "target", "expected"),
    [
        ([30.0] * 7, [], Slo(), 30.0, None),
        ([30.0] * 8, [], Slo(), 30.0, 1.0),
        ([30.0] * 7 + [900.0] * 3, [], Slo(), 30.0, 1.0),
        ([30.0] * 8, [], Slo(), None, None),
        ([30.0] * 18 + [90.0] * 2, [], Slo(itl_ms_p99=60.0), 42.0, 1.5),
        ([30.0] * 19, [], Slo(itl_ms_p99=60.0), 42.0, None),
        ([], [100.0] * 5, Slo(ttft_ms_p99=200.0), None, 0.5),
        ([], [100.0] * 4, Slo(ttft_ms_p99=200.0), None, None),
        ([30.0] * 8, [600.0] * 5, Slo(ttft_ms_p99=200.0), 30.0, 3.0),
        ([30.0] * 8, [600.0] * 5, Slo(), 30.0, 1.0),
    ],
)
def test_stress_is_the_worst_of_what_is_known(
    gaps: list[float], ttfts: list[float], slo: Slo, target: float | None, expected: float | None
) -> None:
    assert stress(gaps, ttfts, slo=slo, step_ms_target=target) == expected
