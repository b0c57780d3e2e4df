"""Step times: what counts as a step, and how long a silence may be."""

from __future__ import annotations

import pytest

from engine.vllm.pace import Pace, silence_seconds_max


def test_time_without_work_is_no_step() -> None:
    pace = Pace(0.0)
    pace.stepped(100.0, running=4, waiting=1, kv_use=0.5)
    pulse = pace.pulse()
    assert (pulse.steps, pulse.step_ms, pulse.running, pulse.waiting, pulse.kv_use) == (1, 0.0, 4, 1, 0.5)
    pace.stepped(100.05, running=4, waiting=0, kv_use=0.5)
    assert pace.pulse().step_ms == pytest.approx(50)
    pace.stepped(100.10, running=0, waiting=0, kv_use=0.0)
    pace.stepped(500.0, running=1, waiting=0, kv_use=0.1)
    assert pace.pulse().step_ms_max == pytest.approx(50, rel=0.01)


def test_the_mean_follows_and_the_maximum_forgets_slowly() -> None:
    pace = Pace(0.0)
    at = 0.0
    for step_ms in [10.0] * 5 + [1_000.0] + [10.0] * 50:
        pace.stepped(at, running=1, waiting=0, kv_use=0.0)
        at += step_ms / 1000
    pulse = pace.pulse()
    assert pulse.step_ms < 30
    assert 900 < pulse.step_ms_max < 1_000


def test_a_silence_is_measured_against_the_slowest_step() -> None:
    assert silence_seconds_max(50) == 30
    assert silence_seconds_max(4_000) == 80
