from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import throughput, throughput_arms, vllm_baselines
from benchmarks.engine_clock import Window
from benchmarks.form import CouldNotMeasure, Options
from benchmarks.server_process import ChildProcess, free_port
from benchmarks.tap import Tap, finish_of
from benchmarks.throughput import Measured
from benchmarks.throughput_arms import Plan, Run
from benchmarks.vllm_baselines import Work

ARMS = ["ours", "run_batch", "parallel_client"]


def measured(seconds: list[float]) -> Measured:
    return Measured({}, [Run(Window(one, 100, 1_000, 500, 800), one + 1) for one in seconds])


@settings(deadline=None)
@given(st.integers(min_value=1, max_value=20))
def test_no_arm_always_comes_first(rounds: int) -> None:
    first = [throughput.order_of(number, ARMS)[0] for number in range(2 * rounds)]
    assert first.count(ARMS[0]) == first.count(ARMS[-1]) == rounds
    assert sorted(throughput.order_of(1, ARMS)) == sorted(ARMS)


def test_ratios_are_medians_of_rounds() -> None:
    found = throughput.headline(
        {
            "ours": measured([10.0, 20.0, 30.0]),
            "run_batch": measured([9.0, 20.0, 33.0]),
            "parallel_client": measured([20.0] * 3),
        }
    )
    assert found["ratio_vs_run_batch"].value == pytest.approx(1.0)
    assert found["ratio_vs_run_batch"].n == 3
    assert found["ratio_vs_parallel_client"].value == pytest.approx(1.0)
    assert found["requests_per_s"].value == pytest.approx(5.0)
    assert found["tokens_per_s"].value == pytest.approx(40.0)


def test_an_arm_that_ran_less_often_gives_no_ratio() -> None:
    found = throughput.headline({"ours": measured([10.0] * 3), "run_batch_defaults": measured([9.0])})
    assert "ratio_vs_run_batch_defaults" not in found


def test_an_arm_shows_what_a_client_waits_beside_the_engines_window() -> None:
    assert measured([10.0, 12.0]).figures()["upload_to_completed_s"].value == 12.0


def plan(**changes: object) -> Plan:
    values: dict[str, object] = {
        "lines": [],
        "count": 0,
        "inflight_max": 64,
        "model": "/srv/models/small",
        "upstream": None,
        "flags": throughput_arms.CPU_FLAGS,
        "device": "cpu",
        "cores": (0, 1),
    }
    return Plan(**{**values, **changes})  # type: ignore[arg-type]


def test_every_arm_states_flags_and_cores_and_no_folder() -> None:
    arms = throughput_arms.arms(plan())
    assert list(arms) == ["ours", "run_batch", "parallel_client", "run_batch_defaults"]
    for name in ("ours", "run_batch", "parallel_client"):
        assert arms[name].facts["cores_bound"] == "0,1"
        assert arms[name].facts["model"] == "small"
        assert "--max-num-seqs 64" in str(arms[name].facts["engine_flags"])
        assert "--scheduling-policy priority" in str(arms[name].facts["engine_flags"])
    assert arms["run_batch_defaults"].facts["engine_flags"] == "vLLM's defaults"
    assert "/srv" not in str([arm.facts for arm in arms.values()])


def test_an_upstream_is_compared_with_a_parallel_client_only() -> None:
    arms = throughput_arms.arms(plan(upstream="http://gpu1:8000/v1"))
    assert list(arms) == ["ours", "parallel_client"]
    assert arms["ours"].facts["upstream"] == "http://HOST:8000/v1"


def test_arms_can_be_left_out_but_not_ours() -> None:
    arms = throughput_arms.arms(plan())
    assert list(throughput.chosen(arms, "")) == list(arms)
    assert list(throughput.chosen(arms, "run_batch")) == ["ours", "run_batch"]
    with pytest.raises(CouldNotMeasure, match="no arm vllm; there are ours"):
        throughput.chosen(arms, "vllm")


def test_flags_of_a_person_replace_the_defaults() -> None:
    options = Options("throughput", "", model="org/model", engine_args=("--max-num-seqs", "8"))
    made = Plan.of(options, lines=[b"{}"], count=1, inflight_max=4)
    assert made.flags == ("--max-num-seqs", "8")
    assert made.model == "org/model"


def test_refused_lines_of_run_batch_are_noticed() -> None:
    good, bad = b'{"error": null, "response": {}}', b'{"error": {"message": "too long"}, "response": {}}'
    vllm_baselines.check_run_batch_output([good, good], lines=2)
    with pytest.raises(CouldNotMeasure, match="answered 1 of 2"):
        vllm_baselines.check_run_batch_output([bad, good], lines=2)
    with pytest.raises(CouldNotMeasure, match="answered 0 of 2"):
        vllm_baselines.check_run_batch_output([], lines=2)


def test_usage_that_an_upstream_leaves_out_counts_as_nothing() -> None:
    assert finish_of(1.0, 2.0, b"{}").output_tokens == 0
    details = b'{"usage": {"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 8}}}'
    assert finish_of(1.0, 2.0, details).cached_tokens == 8


UPSTREAM = """
import sys
from aiohttp import web

async def models(request):
    model = {"id": "m", "object": "model", "created": 0, "owned_by": "t"}
    return web.json_response({"object": "list", "data": [model]})

async def chat(request):
    body = await request.json()
    content = body["messages"][0]["content"]
    if content == "refuse":
        return web.json_response({"error": {"message": "no", "type": "invalid_request_error"}}, status=400)
    message = {"role": "assistant", "content": f"{request.headers['authorization']} {content}"}
    return web.json_response({"id": "1", "object": "chat.completion", "created": 0, "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}})

app = web.Application()
app.router.add_get("/v1/models", models)
app.router.add_post("/v1/chat/completions", chat)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
"""


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    import sys

    port = free_port()
    server = ChildProcess(
        [sys.executable, "-c", UPSTREAM, str(port)], folder=tmp_path_factory.mktemp("upstream"), name="upstream"
    )
    server.start()
    server.wait_for(f"http://127.0.0.1:{port}/v1/models", 60)
    yield f"http://127.0.0.1:{port}/v1"
    server.stop()


def work(folder: Path, contents: list[str]) -> Work:
    path = folder / "input.jsonl"
    path.write_text(
        "".join(
            json.dumps(
                {"url": "/v1/chat/completions", "body": {"model": "m", "messages": [{"role": "user", "content": one}]}}
            )
            + "\n"
            for one in contents
        )
    )
    return Work("m", (), path, len(contents), {})


def test_a_parallel_client_through_the_tap_is_timed_request_by_request(upstream: str, tmp_path: Path) -> None:
    with Tap(upstream, tmp_path) as tap:
        seconds = vllm_baselines.send_all(tap.url, work(tmp_path, ["hello"] * 20), tmp_path, inflight_max=4)
        window = tap.window(requests=20)
    assert 0 < window.seconds <= seconds
    assert (window.prompt_tokens, window.output_tokens) == (60, 40)


def test_a_refused_line_is_no_measurement(upstream: str, tmp_path: Path) -> None:
    with pytest.raises(CouldNotMeasure, match="got 1 of 2 lines"):
        vllm_baselines.send_all(upstream, work(tmp_path, ["hello", "refuse"]), tmp_path, inflight_max=2)
