"""Faults as they are written in a configuration."""

from __future__ import annotations

from typing import Any

import pytest

from engine.simulated import SimulatedFaults


def test_faults_are_read_from_plain_values() -> None:
    assert SimulatedFaults.of({"die_probability": 1, "poison": "x"}) == SimulatedFaults(die_probability=1, poison="x")
    assert SimulatedFaults.of({}) == SimulatedFaults()


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"dye_probability": 0.1}, "unknown fault dye_probability (known: die_after_requests, die_probability"),
        ({"die_probability": "often"}, "die_probability: Expected `float`, got `str`"),
        ({"abort_probability": 7}, "abort_probability is a probability, from 0 to 1, not 7"),
        ({"overload_probability": float("nan")}, "overload_probability is a probability"),
        ({"start_seconds": -1}, "start_seconds must be 0 or more, not -1"),
        ({"deaths_max": 1.5}, "deaths_max: Expected `int | null`, got `float`"),
    ],
)
def test_a_fault_that_cannot_be_played_is_refused_by_name(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError) as refused:
        SimulatedFaults.of(given)
    assert complaint in str(refused.value)
