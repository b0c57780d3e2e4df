"""Lengths that are learnt: what lines cost, the order in which they run, the end of a batch, and a restart."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.protocol import EngineMeters, EngineRequest, EngineResult, Usage
from scheduler.actors.desk import Desk
from scheduler.actors.feeds import Feeds
from scheduler.actors.inputs import Inputs
from scheduler.actors.measures import Measures
from scheduler.actors.predictions import FILE_NAME, Predictions
from scheduler.actors.waiting import Ended
from scheduler.facts.curve import curve_of
from scheduler.facts.work import ModelKey
from scheduler.policy.terms import Terms
from store.records import BatchStatus, RequestCounts
from tests.scheduler.world import SETTINGS, TestEngine, World, chat, echo, poll, registry_of, running

SYSTEM = {"role": "system", "content": "Answer with one word."}
TOKENS_MAX = 2000
LIMIT = 500
BY_LIMITS = 3
"""So many lines of that limit have room in such an engine."""


@pytest.fixture
def engine() -> TestEngine:
    return TestEngine(inflight_tokens_max=TOKENS_MAX)


def questions(count: int, *, limit: int = LIMIT) -> list[dict[str, object]]:
    return [
        chat(f"row-{no}", messages=[SYSTEM, {"role": "user", "content": f"Is {no} prime?"}], max_tokens=limit)
        for no in range(count)
    ]


def short(request: EngineRequest) -> EngineResult:
    answer = json.dumps({"object": "chat.completion", "model": request.model, "choices": []}).encode()
    return EngineResult(200, answer, Usage(10, 0, 2))


async def fill(world: World, engine: TestEngine, **changed: object) -> int:
    """How many lines of a further batch are in flight at most, with nobody answered."""
    before = len(engine.asked)
    engine.hold()
    async with running(world.scheduler(holder=f"holder {before}", **changed)):
        batch = await world.batch(questions(64))
        full = BY_LIMITS if changed else engine.limits().inflight_requests_max

        async def is_full() -> bool:
            return engine.inflight >= full

        await poll(is_full)
        engine.inflight_max = engine.inflight
        engine.let_go()
        await world.ended(batch)
    return engine.inflight_max


async def test_lines_of_a_known_template_cost_what_they_should_need_also_after_a_restart(
    world: World, engine: TestEngine
) -> None:
    engine.respond = short
    async with running(world.scheduler()):
        await world.ended(await world.batch(questions(40)))
    assert await fill(world, engine) == engine.limits().inflight_requests_max
    assert (world.store.folder / FILE_NAME).stat().st_size < 1000
    assert await fill(world, engine, predict_lengths=False) == BY_LIMITS


async def test_lines_that_wait_cost_less_as_soon_as_others_of_them_have_ended(world: World, engine: TestEngine) -> None:
    engine.respond, engine.answer_seconds = short, 0.02
    async with running(world.scheduler(shard_lines_max=256)):
        await world.ended(await world.batch(questions(250)))
    assert engine.inflight_max > BY_LIMITS


async def test_answers_as_long_as_their_limit_leave_it_as_it_is(world: World, engine: TestEngine) -> None:
    engine.respond = lambda request: EngineResult(200, short(request).body, Usage(10, 0, LIMIT))
    engine.answer_seconds = 0.005
    async with running(world.scheduler()):
        await world.ended(await world.batch(questions(120)))
    assert engine.inflight_max <= BY_LIMITS


def by_length(lengths: dict[str, int]) -> Callable[[EngineRequest], EngineResult]:
    def respond(request: EngineRequest) -> EngineResult:
        text = json.loads(request.body)["messages"][0]["content"]
        return EngineResult(200, echo(request).body, Usage(100, 90, lengths[text[0]]))

    return respond


async def test_what_should_take_longest_runs_first_whatever_the_limits_say(world: World, engine: TestEngine) -> None:
    engine.respond = by_length({"a": 40, "b": 2})
    limits = {"a": 100, "b": 400}

    def lines(count: int) -> list[dict[str, object]]:
        return [
            chat(f"{name}-{no}", f"{name * 300} {no}", max_tokens=limits[name]) for no in range(count) for name in "ab"
        ]

    async with running(world.scheduler(shard_lines_max=64)):
        await world.ended(await world.batch(lines(20)))
        first = [json.loads(body)["messages"][0]["content"][0] for body in engine.asked]
        engine.asked.clear()
        await world.ended(await world.batch(lines(20)))
        second = [json.loads(body)["messages"][0]["content"][0] for body in engine.asked]
    assert first[0] == "b"
    assert second == ["a"] * 20 + ["b"] * 20


async def test_the_work_of_a_batch_lies_where_its_long_lines_are(world: World, engine: TestEngine) -> None:
    engine.hold()
    lines = [chat(f"row-{no}", "question", max_tokens=30 if no % 2 else 10) for no in range(100)]
    predictions = Predictions(None, SETTINGS)
    async with running(world.scheduler()):
        batch = await world.until(await world.batch(lines), lambda found: found.status is BatchStatus.IN_PROGRESS)
        assert predictions.curve(batch.id) is None
        await predictions.look(batch, Inputs(world.store))
        curve = predictions.curve(batch.id)
    assert curve is not None
    assert curve.lines == 100
    assert curve.done(50) == pytest.approx(122 / 164, abs=0.02)
    predictions.keep_up([], [])
    assert predictions.curve(batch.id) is None


async def test_lines_that_are_left_are_less_work_where_long_ones_ran_first(world: World) -> None:
    curve = curve_of(np.array([30.0] * 50 + [10.0] * 50))
    measures = Measures(world.registry, SETTINGS, Inputs(world.store), Terms(), curve=lambda _batch_id: curve)
    batch = await world.batch(questions(1))
    half = replace(batch, counts=RequestCounts(total=100, completed=45, failed=5))
    assert measures.relative_sizes([half]) == {batch.id: pytest.approx(1 / 3)}
    assert measures.relative_sizes([batch]) == {batch.id: 1.0}


async def test_a_broken_file_of_lengths_is_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b'[{"no": "lengths"}]')
    predictions = Predictions(tmp_path, SETTINGS)
    await predictions.load()
    assert predictions.known() == {}


def test_less_is_in_flight_on_an_engine_that_pushes_requests_out() -> None:
    now = 0.0
    desk = Desk(TestEngine(inflight_tokens_max=1000), SETTINGS, monotonic=lambda: now)
    desk.look()
    assert desk.budget().tokens_max == 1000
    for pushed_out in (0, 3):
        desk.see_pushed_out(pushed_out, is_ours=True)
    desk.look()
    assert desk.budget().tokens_max == 900
    now = 10_000.0
    desk.see_pushed_out(3, is_ours=True)
    desk.look()
    assert desk.budget().tokens_max == 1000


class MeteredEngine(TestEngine):
    __test__ = False

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock

    def meters(self) -> EngineMeters:
        return EngineMeters(0.5 * self._clock(), 4 * self._clock(), 0, 0.1 * self._clock(), int(100 * self._clock()))


def test_how_an_engine_is_fed_is_measured_while_lines_wait() -> None:
    clock = [0.0]
    registry = registry_of(MeteredEngine(lambda: clock[0]))
    feeds = Feeds(registry, monotonic=lambda: clock[0], cpu_seconds=lambda: 0.2 * clock[0])
    for second in range(12):
        clock[0] = float(second)
        feeds.look({ModelKey("smol", "r1"): Ended(100, is_full=True)})
    feeds.show()
    engine, loop = registry.feeds()
    assert (engine.busy_share, engine.running, engine.front_ms) == (0.5, 4.0, pytest.approx(1.0))
    assert (loop.front_share, loop.front_ms) == (pytest.approx(0.2), pytest.approx(2.0))
