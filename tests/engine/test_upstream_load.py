"""What the Prometheus text of other people's servers says of their load."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.protocol import EngineLoad
from engine.remote.upstream_load import Reading, UpstreamLoad, read_load, step_ms

VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="org/a model {x}"} 12.0
vllm:num_requests_running{engine="1",model_name="org/a model {x}"} 3.0
vllm:num_requests_waiting{engine="0",model_name="m"} 4.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 4.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.5
vllm:inter_token_latency_seconds_bucket{engine="0",le="0.01",model_name="m"} 7.0
vllm:inter_token_latency_seconds_sum{engine="0",model_name="m"} 30.5
vllm:inter_token_latency_seconds_count{engine="0",model_name="m"} 1000.0 1700000000000
process_cpu_seconds_total 12.5
"""

SGLANG = 'sglang:num_running_reqs{model_name="m"} 5.0\nsglang:num_queue_reqs{model_name="m"} 2.0\n'
LLAMA = "llamacpp:requests_processing 1\nllamacpp:requests_deferred 0\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (VLLM, Reading(15, 4, 0.5, 30.5, 1000.0)),
        (SGLANG, Reading(5, 2)),
        (LLAMA, Reading(1, 0)),
        ("", None),
        ("<html>not found</html>", None),
        ("vllm:num_requests_waiting 4\n", None),
        ("vllm:num_requests_running NaN\n", None),
        ("vllm:num_requests_running{\n", None),
    ],
)
def test_running_and_waiting_are_read_from_what_each_server_calls_them(text: str, expected: Reading | None) -> None:
    assert read_load(text) == expected


@given(st.text())
def test_whatever_the_text_is_reading_it_does_no_harm(text: str) -> None:
    read_load(text)
    read_load("vllm:num_requests_running " + text)


def test_the_time_of_a_step_is_that_of_the_tokens_between_two_looks() -> None:
    before = Reading(itl_seconds=30.0, itl_count=1000.0)
    assert step_ms(before, Reading(itl_seconds=33.0, itl_count=1100.0)) == pytest.approx(30.0)
    assert step_ms(before, before) == 0.0
    assert step_ms(before, Reading(itl_seconds=0.1, itl_count=4.0)) == 0.0  # it was started anew


def test_requests_that_two_looks_see_and_we_did_not_send_are_someone_elses() -> None:
    load = UpstreamLoad()
    load.seen(Reading(running=10), ours_max=8)
    assert load.elsewhere == 0  # it may be one of ours that has just ended
    load.seen(Reading(running=9), ours_max=8)
    assert load.elsewhere == 1
    load.seen(Reading(running=8), ours_max=8)
    assert load.elsewhere == 0


def test_the_load_shows_our_own_requests_at_once_and_others_as_they_were_seen() -> None:
    load = UpstreamLoad()
    assert load.load(3) == EngineLoad(running=3)
    for _ in range(2):
        load.seen(Reading(running=10, waiting=4, kv_use=0.25), ours_max=8)
    assert load.load(8) == EngineLoad(10, 4, 0.25, 0.0, elsewhere=6)
    load.unseen()
    assert load.load(8) == EngineLoad(running=8)
