"""What a simulated model of the configuration becomes."""

from __future__ import annotations

import time

import pytest
from pydantic import ValidationError

from nightbatch.config.model import ModelConfig
from nightbatch.engines import simulated_engines


@pytest.mark.parametrize(("given", "expected"), [(None, False), (False, False), (True, True)])
def test_a_simulated_model_puts_online_requests_first_when_it_is_asked_to(given: bool | None, expected: bool) -> None:
    model = ModelConfig.model_validate(
        {"id": "m", "engine": "simulated", "profile": "cpu-135m", "online_first": given, "slo": {"itl_ms_p99": 30}}
    )
    (engine,) = simulated_engines(model, ["m"], time.time, online_slots=3)
    assert engine.bounds_steps is expected


def test_online_first_is_nothing_that_an_upstream_can_be_told() -> None:
    with pytest.raises(ValidationError, match='online_first is for engine = "vllm" or "simulated"'):
        ModelConfig.model_validate({"id": "m", "engine": "remote", "upstreams": ["http://b/v1"], "online_first": True})
