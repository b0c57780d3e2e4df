"""Batch work that yields to online requests on engines which only know priorities."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import REGISTRY

from engine.presence import Presence
from engine.protocol import EngineLoad, EngineState, ModelKind
from engine.registry import Registry
from engine.slo import Slo
from scheduler import Scheduler
from scheduler.actors.desk import Desk
from scheduler.policy.allowance import FREE, Allowance
from scheduler.policy.duty import UNMEASURED_REQUESTS, DutySettings
from scheduler.policy.pressure import Phase, PressureSettings, Signs
from scheduler.policy.taking_back import TakeBackSettings
from scheduler.settings import ThrottleSettings
from store import BatchStatus
from tests.scheduler.world import SETTINGS, TestEngine, World, a_model, chats, poll, running

UNTRUSTED = 5
QUICK = ThrottleSettings(
    PressureSettings(
        inflight_untrusted=UNTRUSTED, linger_seconds_min=0.01, linger_seconds_max=0.02, refill_seconds=0.2
    ),
    DutySettings(share_max=0.5),
    TakeBackSettings(share_max=0.9),
    look_seconds=0.01,
    idle_look_seconds=0.02,
)


class LoadedEngine(TestEngine):
    """It tells more of its load than a test engine does by itself, and may bound its own steps."""

    __test__ = False

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.elsewhere = 0
        self.step_ms = 0.0
        self.bounds_steps = False

    def load(self) -> EngineLoad:
        return EngineLoad(self.inflight + self.elsewhere, 0, 0.0, self.step_ms, self.elsewhere)


@pytest.fixture
def engine() -> LoadedEngine:
    return LoadedEngine()


def a_world(world: World, *engines: TestEngine, device: str | None = None) -> World:
    """The world with these engines, all on one device if it is named."""
    devices = {} if device is None else {one.name: frozenset({device}) for one in engines}
    return World(world.store, Registry(engines, presence=Presence(devices)), world.settings)


async def until(holds: Callable[[], bool]) -> None:
    async def look() -> bool:
        return holds()

    await poll(look)


async def test_what_is_far_above_the_bound_is_taken_back_for_the_first_online_request(
    world: World, engine: LoadedEngine
) -> None:
    engine.hold()
    batch = await world.batch(chats(100))
    scheduler = world.scheduler(throttle=QUICK)
    async with running(scheduler):
        await until(lambda: engine.inflight == 32)
        await asyncio.sleep(0.3)  # work that may be lost is saved up while requests run
        with world.registry.presence.online(engine.name):
            await until(lambda: engine.inflight == UNTRUSTED)
            (view,) = scheduler.throttle.views()
            assert (view.phase, view.cap, view.online) == (Phase.BESIDE, UNTRUSTED, 1)
            assert REGISTRY.get_sample_value("nightbatch_inflight_cap", {"engine": "e"}) == UNTRUSTED
        engine.let_go()
        ended = await world.ended(batch)
    output, errors = await world.results(ended)
    assert [line["custom_id"] for line in output] == [f"row-{no}" for no in range(100)]
    assert errors == []
    assert len(engine.asked) == 100 + 32 - UNTRUSTED


async def test_without_credit_what_runs_may_end_and_nothing_follows_it(world: World, engine: LoadedEngine) -> None:
    engine.hold()
    batch = await world.batch(chats(60))
    thrifty = replace(QUICK, take_back=TakeBackSettings(share_max=0.0))
    async with running(world.scheduler(throttle=thrifty)):
        await until(lambda: engine.inflight == 32)
        with world.registry.presence.online(engine.name):
            assert engine.inflight == 32
            engine.let_go()
            engine.answer_seconds = 0.05
            await until(lambda: engine.inflight <= UNTRUSTED)
            engine.inflight_max = 0
            await until(lambda: len(engine.asked) >= 45)
            assert engine.inflight_max <= UNTRUSTED
        await world.ended(batch)
    assert len(engine.asked) == 60


async def test_when_online_requests_have_gone_the_engine_fills_up_again(world: World, engine: LoadedEngine) -> None:
    engine.hold()
    await world.batch(chats(100))
    async with running(world.scheduler(throttle=QUICK)):
        with world.registry.presence.online(engine.name):
            await until(lambda: engine.inflight == UNTRUSTED)
        await until(lambda: engine.inflight >= 25)  # five times what is beside online requests, until it is quiet


async def test_a_line_is_done_once_however_often_online_requests_come_and_go(
    world: World, engine: LoadedEngine
) -> None:
    engine.answer_seconds = 0.02
    batch = await world.batch(chats(300))
    async with running(world.scheduler(throttle=QUICK)):
        for _ in range(30):
            with world.registry.presence.online(engine.name):
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.02)
        ended = await world.ended(batch)
    output, errors = await world.results(ended)
    assert [line["custom_id"] for line in output] == [f"row-{no}" for no in range(300)]
    assert errors == []
    assert ended.usage.input_tokens == 3 * 300


async def test_a_cancelled_batch_ends_while_its_lines_are_taken_back(world: World, engine: LoadedEngine) -> None:
    engine.hold()
    batch = await world.batch(chats(100))
    async with running(world.scheduler(throttle=QUICK)):
        await until(lambda: engine.inflight == 32)
        await asyncio.sleep(0.1)
        with world.registry.presence.online(engine.name):
            await world.cancel(batch)
            ended = await world.ended(batch)
    assert ended.status is BatchStatus.CANCELLED
    assert engine.inflight == 0


async def test_online_requests_that_an_upstream_tells_of_bound_the_batch_too(
    world: World, engine: LoadedEngine
) -> None:
    engine.hold()
    engine.elsewhere = 3
    await world.batch(chats(100))
    scheduler = world.scheduler(throttle=QUICK)
    async with running(scheduler):
        await until(lambda: engine.inflight > 0)
        await until(lambda: engine.inflight == UNTRUSTED)
        assert world.registry.presence.on_engine(engine.name) == 3
        engine.elsewhere = 0
        await until(lambda: engine.inflight >= 25)
        engine.elsewhere = 3
        engine.change(EngineState.RESTARTING, "died")  # nobody is online on an engine that is not there
        await until(lambda: world.registry.presence.on_engine(engine.name) == 0)


async def test_an_engine_that_bounds_its_own_steps_is_not_bounded_from_outside(
    world: World, engine: LoadedEngine
) -> None:
    engine.bounds_steps = True
    engine.hold()
    await world.batch(chats(100))
    scheduler = world.scheduler(throttle=QUICK)
    async with running(scheduler):
        with world.registry.presence.online(engine.name):
            await until(lambda: engine.inflight == 32)
            (view,) = scheduler.throttle.views()
            assert view.cap is None


@pytest.mark.parametrize("bounds_steps", [False, True])
async def test_batch_work_yields_to_online_requests_on_another_engine_of_its_device(
    world: World, engine: LoadedEngine, bounds_steps: bool
) -> None:
    other = TestEngine("other", models=(a_model("chat"),))
    engine.bounds_steps = bounds_steps
    engine.hold()
    both = a_world(world, engine, other, device="cpu")
    await both.batch(chats(100))
    async with running(both.scheduler(throttle=QUICK)):
        with both.registry.presence.online("other"):
            await until(lambda: engine.inflight == UNTRUSTED)
        await until(lambda: engine.inflight >= 25)


async def test_online_requests_on_another_device_bound_nothing(world: World, engine: LoadedEngine) -> None:
    other = TestEngine("other", models=(a_model("chat"),))
    engine.hold()
    apart = a_world(world, engine, other)
    await apart.batch(chats(100))
    async with running(apart.scheduler(throttle=QUICK)):
        with apart.registry.presence.online("other"):
            await until(lambda: engine.inflight == 32)


async def test_an_engine_without_decode_steps_gets_small_calls_with_rests(world: World) -> None:
    pooling = TestEngine("pool", models=(a_model(kind=ModelKind.POOLING),))
    other = TestEngine("other", models=(a_model("chat"),))
    pooling.answer_seconds = 0.05
    both = a_world(world, pooling, other, device="cpu")
    batch = await both.batch(chats(20))
    async with running(both.scheduler(throttle=QUICK)):
        with both.registry.presence.online("other"):
            started = time.monotonic()
            await both.ended(batch)
            seconds = time.monotonic() - started
    assert pooling.inflight_max == UNMEASURED_REQUESTS
    # At 50 ms for a call, one request or several, five calls at the least: half of the time is rest.
    assert seconds >= 2 * 0.05 * 4


async def test_a_benchmark_may_put_another_policy_in_the_place_of_ours(world: World, engine: LoadedEngine) -> None:
    seen: list[Signs] = []

    def fixed(signs: Signs) -> Allowance:
        seen.append(signs)
        return Allowance(requests_max=7)

    engine.hold()
    await world.batch(chats(100))
    scheduler = world.scheduler(throttle=QUICK)
    scheduler.throttle.govern(engine.name, fixed)
    async with running(scheduler):
        await until(lambda: engine.inflight == 7)
        scheduler.throttle.govern(engine.name, lambda _signs: FREE)
        await until(lambda: engine.inflight == 32)
        scheduler.throttle.govern(engine.name, None)
        with world.registry.presence.online(engine.name):
            await until(lambda: scheduler.throttle.views()[0].cap == UNTRUSTED)
    assert seen[-1].inflight_max == 32


async def test_what_online_requests_feel_moves_the_bound(world: World, engine: LoadedEngine) -> None:
    """Steps are measured with few and with many requests; then the tokens of an online request come late."""
    engine.hold()
    await world.batch(chats(100))
    settings = replace(QUICK, pressure=replace(QUICK.pressure, settle_seconds=0.05, online_slots=0))
    scheduler = world.scheduler(throttle=settings)
    async with running(scheduler):
        with world.registry.presence.online(engine.name):
            await until(lambda: engine.inflight == UNTRUSTED)
            await _show_steps(engine, base_ms=10.0, each_ms=1.0)
        await until(lambda: engine.inflight >= 25)
        await _show_steps(engine, base_ms=10.0, each_ms=1.0)
        with world.registry.presence.online(engine.name):
            await until(lambda: scheduler.throttle.views()[0].step_ms_target is not None)
            target = scheduler.throttle.views()[0].step_ms_target
            assert target is not None
            assert 18 <= target <= 26  # about twice 11 ms

            def is_cut() -> bool:
                world.registry.meter.gap(engine.name, 10 * target)
                return scheduler.throttle.views()[0].cap == 1

            await until(is_cut)


async def _show_steps(engine: LoadedEngine, *, base_ms: float, each_ms: float) -> None:
    """The engine's step times at what runs now, for long enough to be believed."""
    for turn in range(40):
        engine.step_ms = base_ms + each_ms * engine.inflight + 0.001 * turn
        await asyncio.sleep(0.05)


def test_a_large_line_is_cut_so_that_one_call_is_short() -> None:
    pooling, chatting = TestEngine("pool", models=(a_model(kind=ModelKind.POOLING),)), TestEngine("chat")
    desks = [Desk(engine, SETTINGS, monotonic=time.monotonic) for engine in (pooling, chatting)]
    assert [desk.slice_sub_requests_max() for desk in desks] == [SETTINGS.slice_sub_requests_max] * 2
    for desk in desks:
        desk.gate.calls.ms_each = 20.0
    assert [desk.slice_sub_requests_max() for desk in desks] == [2, SETTINGS.slice_sub_requests_max]


async def test_a_promise_that_cannot_be_kept_is_warned_of_once_with_the_figure(
    world: World, engine: LoadedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.hold()
    await world.batch(chats(100))
    scheduler = Scheduler(
        world.store,
        world.registry,
        replace(SETTINGS, throttle=QUICK),
        holder="one",
        slos={engine.name: Slo(itl_ms_p99=4.0)},
    )
    async with running(scheduler):
        with world.registry.presence.online(engine.name):
            await until(lambda: engine.inflight == UNTRUSTED)
            await _show_steps(engine, base_ms=10.0, each_ms=1.0)
        await until(lambda: engine.inflight >= 25)
        await _show_steps(engine, base_ms=10.0, each_ms=1.0)
        await until(lambda: "one token takes" in caplog.text)
    assert caplog.text.count("one token takes 11") == 1


async def test_an_engine_that_cannot_be_looked_at_costs_no_online_request(
    world: World, engine: LoadedEngine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> EngineLoad:
        raise RuntimeError("no load to be had")

    monkeypatch.setattr(engine, "load", broken)
    world.scheduler(throttle=QUICK)
    with world.registry.presence.online(engine.name):
        assert "their bounds stay as they are" in caplog.text
