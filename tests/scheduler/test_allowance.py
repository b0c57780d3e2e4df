"""From how things stand on an engine to what it may be sent."""

from __future__ import annotations

import pytest

from scheduler.actors.gate import Gate
from scheduler.policy.allowance import FREE, Allowance, for_decoding, for_pooling
from scheduler.policy.duty import Call, DutySettings
from scheduler.policy.packer import Budget, Cost, Inflight
from scheduler.policy.pressure import Phase, Pressure, PressureSettings, Signs, decide

SETTINGS = PressureSettings()
DUTY = DutySettings(step_ms_target=50.0, share_max=0.25, idle_calls_max=4)


@pytest.mark.parametrize(
    ("pressure", "expected"),
    [
        (Pressure(Phase.ALONE), FREE),
        (Pressure(Phase.RISING, cap=20), Allowance(20)),
        (Pressure(Phase.LINGERING, cap=8), Allowance(8)),
        (Pressure(Phase.BESIDE, cap=8), Allowance(8, SETTINGS.prefills_max, recall_to=8)),
        (
            Pressure(Phase.BESIDE, cap=8, is_onset=True),
            Allowance(8, SETTINGS.prefills_max, recall_to=8, recalls_reading=True),
        ),
        (Pressure(Phase.NEIGHBOUR, cap=8), Allowance(8, SETTINGS.prefills_max, recall_to=8)),
    ],
)
def test_an_engine_with_decode_steps_is_bounded_by_what_is_in_flight(pressure: Pressure, expected: Allowance) -> None:
    assert for_decoding(pressure, SETTINGS) == expected


@pytest.mark.parametrize(
    ("phase", "expected"),
    [
        (Phase.ALONE, FREE),
        (Phase.RISING, Allowance(100)),
        (Phase.LINGERING, Allowance(100)),
        (Phase.BESIDE, Allowance(call=Call(25, 0.25), recall_to=25)),
        (Phase.NEIGHBOUR, Allowance(call=Call(25, 0.25), recall_to=25)),
    ],
)
def test_an_engine_without_decode_steps_gets_short_calls(phase: Phase, expected: Allowance) -> None:
    assert for_pooling(phase, 2.0, DUTY) == expected


def test_prompts_that_are_being_read_are_taken_back_only_when_presence_begins() -> None:
    first = decide(Pressure(), Signs(10.0, 1, 0, 0.0, 4, 96, 64), SETTINGS)
    second = decide(first, Signs(10.1, 2, 0, 0.0, 4, 96, 64), SETTINGS)
    assert (first.is_onset, second.is_onset) == (True, False)


def test_beside_online_requests_the_next_prompt_waits_until_the_last_one_is_read() -> None:
    gate, budget, inflight, cost = Gate(), Budget(96, None), Inflight(), Cost(1, 400, 100)
    gate.allowance = Allowance(8, prefills_max=1)
    assert gate.fits(budget, inflight, cost, now=0.0)
    inflight.take(cost)
    assert gate.sent(cost, step_ms=50.0, now=0.0) == 0.05
    assert not gate.fits(budget, inflight, cost, now=0.01)
    assert gate.opens_at(inflight, now=0.01) == 0.05
    assert gate.fits(budget, inflight, cost, now=0.05)


def test_an_engine_with_nothing_in_flight_is_never_closed_by_prompts() -> None:
    gate, cost = Gate(), Cost(1, 400, 100)
    gate.allowance = Allowance(8, prefills_max=1)
    gate.sent(cost, step_ms=5_000.0, now=0.0)
    assert gate.fits(Budget(96, None), Inflight(), cost, now=0.01)


def test_a_bound_above_the_engines_own_budget_changes_nothing() -> None:
    gate, cost = Gate(), Cost(1, 1)
    gate.allowance = Allowance(500)
    assert not gate.fits(Budget(4, None), Inflight(4, 4, 4), cost, now=0.0)
