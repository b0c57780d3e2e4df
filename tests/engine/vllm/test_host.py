"""The engine and its host process, with everything but vLLM in it."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.processes import alive, read_record, record_path
from engine.protocol import (
    CHAT_COMPLETIONS,
    EngineBlocked,
    EngineOverloaded,
    EngineRequest,
    EngineStartError,
    EngineState,
    EngineUnavailable,
    StreamRejected,
)
from engine.vllm import VllmEngine, VllmSpec, pace
from tests.engine.vllm.harness import host_pids
from tests.engine.vllm.test_source import make_model

pytestmark = pytest.mark.timeout(60)

TOY = (str(Path(__file__).with_name("toy_host.py")),)
REQUESTS_PER_S_MIN = 400
Make = Callable[..., VllmEngine]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    made: list[VllmEngine] = []

    def make_engine(source: str = "good", *, seconds: float = 60.0, **more: Any) -> VllmEngine:
        folder = make_model(tmp_path / "models" / source)
        spec = VllmSpec("toy", "toy-model", str(folder), start_seconds_max=seconds, **more)
        made.append(VllmEngine(spec, folder=tmp_path / "engines", host_command=TOY))
        return made[-1]

    yield make_engine
    for engine in made:
        await engine.stop()


@pytest.fixture
async def engine(make: Make) -> VllmEngine:
    made = make()
    await made.start()
    return made


def ask(text: str = "hi", *, model: str = "toy-model", priority: int = 10, sub_requests: int = 1) -> EngineRequest:
    body = json.dumps({"model": "x", "messages": [{"role": "user", "content": text}], "priority": -5}).encode()
    return EngineRequest(text, model, CHAT_COMPLETIONS, body, priority, sub_requests)


async def until(condition: Callable[[], bool], seconds_max: float = 10.0) -> None:
    deadline = time.monotonic() + seconds_max
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.01)


async def test_an_answer_is_shaped_and_carries_model_priority_and_usage(engine: VllmEngine) -> None:
    result = await engine.generate(ask(priority=3))
    answer = json.loads(result.body)
    assert (answer["model"], answer["priority"]) == ("toy-model", 3)
    assert (result.usage.prompt_tokens, result.usage.completion_tokens) == (3, 1)


async def test_the_engine_says_what_its_host_found(engine: VllmEngine) -> None:
    (model,) = engine.models()
    assert (model.id, model.context_tokens_max, model.endpoints) == ("toy-model", 1000, {CHAT_COMPLETIONS})
    assert (engine.limits().inflight_requests_max, engine.limits().inflight_tokens_max) == (12, 64_000)
    assert (engine.status().state, engine.status().incarnation, engine.status().starts) == (EngineState.READY, 1, 1)
    assert await engine.metrics() == "toy_requests 1\n"


async def test_many_requests_a_second_go_through_the_socket(engine: VllmEngine) -> None:
    await engine.generate(ask())
    count = 800
    started = time.monotonic()
    for _ in range(count // 40):
        await asyncio.gather(*(engine.generate(ask()) for _ in range(40)))
    assert count / (time.monotonic() - started) > REQUESTS_PER_S_MIN


async def test_cancelling_a_request_cancels_it_in_the_host(engine: VllmEngine) -> None:
    flying = asyncio.create_task(engine.generate(ask("still 600")))
    await until(lambda: engine.load().running == 1)
    flying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await flying
    await until(lambda: engine.load().running == 0)


async def test_a_stream_ends_by_itself_or_by_being_left(engine: VllmEngine) -> None:
    assert [event async for event in engine.stream(ask("events 2"))][-1] == b"data: [DONE]\n\n"
    events = engine.stream(ask("events 100000"))
    assert await anext(aiter(events)) == b'data: {"n": 0}\n\n'
    await until(lambda: engine.load().running == 1)
    await events.aclose()  # type: ignore[attr-defined]
    await until(lambda: engine.load().running == 0)
    with pytest.raises(StreamRejected) as raised:
        await anext(aiter(engine.stream(ask("status 400"))))
    assert raised.value.result.status_code == 400


async def test_refusals_overload_and_aborts_are_told_apart(engine: VllmEngine) -> None:
    assert (await engine.generate(ask("status 400"))).status_code == 400
    assert (await engine.generate(ask(model="another"))).status_code == 404
    with pytest.raises(EngineOverloaded):
        await engine.generate(ask("status 503"))
    with pytest.raises(EngineUnavailable, match="aborted") as raised:
        await engine.generate(ask("abort"))
    assert not raised.value.died
    with pytest.raises(EngineUnavailable, match="a bug in the front"):
        await engine.generate(ask("bug"))
    assert (await engine.generate(ask())).ok


async def test_a_caller_that_keeps_no_bound_is_told_later(engine: VllmEngine) -> None:
    flying = asyncio.create_task(engine.generate(ask("still 600", sub_requests=40)))
    await until(lambda: engine.load().running == 1)
    with pytest.raises(EngineOverloaded, match="at most 48"):
        await engine.generate(ask(sub_requests=9))
    assert (await engine.generate(ask(sub_requests=8))).ok
    flying.cancel()


@pytest.mark.parametrize(("word", "reason"), [("die", "lost its engine"), ("crash", "killed by signal 9")])
async def test_a_death_fails_what_is_in_flight_and_a_start_heals(engine: VllmEngine, word: str, reason: str) -> None:
    changes: list[EngineState] = []
    engine.on_change(lambda: changes.append(engine.status().state))
    flying = [asyncio.create_task(engine.generate(ask("still 600"))) for _ in range(5)]
    await until(lambda: engine.load().running == 5)
    outcomes = await asyncio.gather(*flying, engine.generate(ask(word)), return_exceptions=True)
    assert all(isinstance(outcome, EngineUnavailable) and outcome.died for outcome in outcomes)
    await until(lambda: reason in (engine.status().reason or ""))
    assert EngineState.STOPPED in changes
    with pytest.raises(EngineUnavailable) as raised:
        await engine.generate(ask())
    assert not raised.value.died
    await engine.start()
    assert (engine.status().incarnation, engine.status().starts) == (2, 2)
    assert (await engine.generate(ask())).ok


async def test_a_host_that_makes_no_steps_is_ended(engine: VllmEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "SILENCE_SECONDS_MIN", 2.0)
    assert (await engine.generate(ask("sleep 3"))).ok
    with pytest.raises(EngineUnavailable, match="no engine step finished") as raised:
        await engine.generate(ask("hang 600"))
    assert raised.value.died
    await until(lambda: not host_pids("toy"), 20.0)


async def test_a_stop_waits_for_what_is_in_flight_and_leaves_no_process(engine: VllmEngine, tmp_path: Path) -> None:
    record = read_record(record_path(tmp_path / "engines", "toy"))
    assert record is not None
    assert record.server_pid == os.getpid()
    flying = asyncio.create_task(engine.generate(ask("sleep 1")))
    await until(lambda: engine.load().running == 1)
    await engine.stop(drain_seconds=30)
    assert (await flying).ok
    assert alive(record.processes) == []
    assert engine.status().state is EngineState.STOPPED
    assert read_record(record_path(tmp_path / "engines", "toy")) is None


async def test_a_stop_without_drain_gives_back_what_was_in_flight(engine: VllmEngine) -> None:
    flying = asyncio.create_task(engine.generate(ask("still 600")))
    await until(lambda: engine.load().running == 1)
    await engine.stop()
    with pytest.raises(EngineUnavailable) as raised:
        await flying
    assert not raised.value.died


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("refused", "ValueError: the weights are for another model"),
        ("child", "OutOfMemoryError: no room for 2 GiB"),
        ("silent", "ended with exit code 3"),
    ],
)
async def test_a_failed_start_says_its_root_cause_in_one_line(make: Make, source: str, cause: str) -> None:
    engine = make(source)
    with pytest.raises(EngineStartError) as raised:
        await engine.start()
    assert cause in str(raised.value)
    assert "\n" not in str(raised.value)
    assert (engine.status().state, engine.status().reason) == (EngineState.DOWN, str(raised.value))


async def test_a_start_that_takes_too_long_is_ended(make: Make) -> None:
    engine = make("slow", seconds=2.0)
    with pytest.raises(EngineStartError, match="not ready after 2 s"):
        await engine.start()
    assert host_pids("toy") == []


async def test_stopping_while_it_starts_ends_the_host_and_the_start(make: Make) -> None:
    engine = make("slow")
    starting = asyncio.create_task(engine.start())
    await until(lambda: bool(host_pids("toy")))
    await engine.stop()
    with pytest.raises(EngineStartError, match="stopped while it started"):
        await starting
    assert host_pids("toy") == []
    assert engine.status().state is EngineState.STOPPED


async def test_a_host_ends_when_its_server_is_gone_even_while_it_is_blocked(make: Make) -> None:
    """The pipe on its standard input is all that it has of the server."""
    engine = make("slow")
    starting = asyncio.create_task(engine.start())
    await until(lambda: bool(host_pids("toy")))
    (pid,) = host_pids("toy")
    host = psutil.Process(pid)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not host.is_running()


async def test_an_argument_that_is_not_the_engines_business_fails_the_start(tmp_path: Path) -> None:
    spec = VllmSpec("toy", "toy-model", str(make_model(tmp_path / "m")), engine_args={"port": 1})
    engine = VllmEngine(spec, folder=tmp_path / "engines", host_command=TOY)
    with pytest.raises(EngineStartError, match="`port` cannot be set"):
        await engine.start()


async def test_a_folder_without_weights_fails_the_start(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    engine = VllmEngine(VllmSpec("toy", "m", str(tmp_path / "m")), folder=tmp_path / "engines", host_command=TOY)
    assert list(engine.models()) == []
    with pytest.raises(EngineStartError, match="no weights"):
        await engine.start()


async def test_an_engine_that_sleeps_drains_first_and_wakes_in_the_same_process(make: Make) -> None:
    engine = make(sleep_level=1)
    await engine.start()
    pids = host_pids("toy")
    running = asyncio.create_task(engine.generate(ask("sleep 2")))
    await until(lambda: engine.load().running == 1)
    await engine.sleep(drain_seconds=10)
    assert (await running).ok
    assert (engine.status().state, engine.status().reason) == (EngineState.STOPPED, "asleep")
    with pytest.raises(EngineUnavailable):
        await engine.generate(ask())
    await engine.start()
    assert json.loads((await engine.generate(ask("slept"))).body)["slept"] == 1
    assert (host_pids("toy"), engine.status().incarnation) == (pids, 2)


async def test_what_has_not_ended_when_the_drain_has_is_aborted_before_the_sleep(make: Make) -> None:
    engine = make(sleep_level=1)
    await engine.start()
    running = asyncio.create_task(engine.generate(ask("sleep 60")))
    await until(lambda: engine.load().running == 1)
    await engine.sleep(drain_seconds=0.1)
    await engine.stop()
    with pytest.raises(EngineUnavailable) as raised:
        await running
    assert not raised.value.died


async def test_an_engine_that_cannot_sleep_says_so_and_can_still_be_stopped(make: Make) -> None:
    engine = make("sleepless", sleep_level=1)
    await engine.start()
    with pytest.raises(EngineUnavailable, match="no sleep"):
        await engine.sleep()
    await engine.stop()
    assert not host_pids("toy")


async def test_an_engine_that_does_not_wake_is_started_anew(make: Make) -> None:
    engine = make("drowsy", sleep_level=1)
    await engine.start()
    pids = host_pids("toy")
    await engine.sleep()
    await engine.start()
    assert (await engine.generate(ask())).ok
    assert host_pids("toy") != pids


async def test_a_host_that_dies_asleep_is_cleaned_up_and_started_anew(make: Make) -> None:
    engine = make(sleep_level=1)
    await engine.start()
    await engine.sleep()
    (pid,) = host_pids("toy")
    psutil.Process(pid).kill()
    await until(lambda: not host_pids("toy"))
    await engine.start()
    assert (await engine.generate(ask())).ok


async def test_an_engine_for_whose_memory_there_is_no_room_is_not_started(make: Make) -> None:
    engine = make(memory_bytes=2**60)
    with pytest.raises(EngineBlocked, match=r"toy needs 1073741824\.0 GiB of cpu, where .* are free"):
        await engine.start()
    assert not host_pids("toy")
