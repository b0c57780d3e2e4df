"""Engines that come and go by the clock and in turns: real supervision around simulated engines, in fast time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, time
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from engine.protocol import CHAT_COMPLETIONS, EngineRequest, EngineState, EngineUnavailable
from engine.registry import Registry
from engine.simulated import PROFILES, SimulatedEngine, SimulatedFaults, simulated_model
from engine.supervisor import Supervised
from scheduler import Scheduler
from scheduler.actors.life import EngineLife
from scheduler.facts.hours import Hours
from scheduler.facts.windows import Calendar, Window
from scheduler.policy.holding import Hold
from scheduler.policy.life import Life, Lives, TurnLimits
from store import BatchRecord, BatchStatus, StoreSettings, open_store
from store.records import ShardState
from tests.scheduler.world import SETTINGS, World, chat, poll, running

BERLIN = ZoneInfo("Europe/Berlin")
NIGHTS = Calendar((Window("night", frozenset(range(7)), time(22), time(6), BERLIN),), zone=BERLIN)
CPU = PROFILES["cpu-135m"]


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN).timestamp()


class Clock:
    def __init__(self, text: str) -> None:
        self.at = at(text)

    def __call__(self) -> float:
        return self.at

    def set(self, text: str) -> None:
        self.at = at(text)


def engine(model: str, clock: Clock, *, time_scale: float = 0.0, start_seconds: float = 0.0) -> Supervised:
    inner = SimulatedEngine(
        model,
        CPU,
        models=[simulated_model(model, CPU)],
        faults=SimulatedFaults(start_seconds=start_seconds),
        time_scale=time_scale,
        now=clock,
    )
    return Supervised(inner, now=clock)


class Led:
    """Engines of the models `large` and `small`, and who leads them."""

    def __init__(self, *lives: Life, clock: Clock, limits: TurnLimits = TurnLimits(), time_scale: float = 0.0) -> None:  # noqa: B008
        self.clock = clock
        self.engines = {life.model: engine(life.model, clock, time_scale=time_scale) for life in lives}
        self.lives = Lives(lives, NIGHTS, limits)
        self.registry = Registry(list(self.engines.values()), led=self.lives.engines)
        self.life = EngineLife(self.registry, self.lives, now=clock)
        self.changed = asyncio.Event()
        self.registry.on_change(self.changed.set)

    def states(self) -> dict[str, EngineState]:
        return {name: one.status().state for name, one in self.engines.items()}

    async def all_running(self, count: int) -> None:
        async def reached() -> bool:
            return sum(one.load().running for one in self.engines.values()) == count

        await poll(reached)

    async def until(self, **states: EngineState) -> None:
        async with asyncio.timeout(20):
            while self.states() != states:
                self.changed.clear()
                await asyncio.wait([asyncio.ensure_future(self.changed.wait())], timeout=0.2)
                await self.life.look()


@asynccontextmanager
async def led(*lives: Life, **more: object) -> AsyncIterator[Led]:
    made = Led(*lives, **more)  # type: ignore[arg-type]
    await made.registry.start()
    try:
        yield made
    finally:
        await made.life.close()
        await made.registry.stop()


def request(model: str, tokens: int = 8) -> EngineRequest:
    body = b'{"messages":[{"role":"user","content":"hi"}],"max_tokens":%d,"ignore_eos":true}' % tokens
    return EngineRequest("1", model, CHAT_COMPLETIONS, body)


LARGE = Life("large", ("large",), Hours.OFF_PEAK)
SMALL = Life("small", ("small",), Hours.PEAK)
READY, AWAY = EngineState.READY, EngineState.AWAY


async def test_the_small_one_is_there_by_day_and_the_large_one_at_night() -> None:
    clock = Clock("2026-11-24 12:00")
    async with led(LARGE, SMALL, clock=clock) as fleet:
        await fleet.until(large=AWAY, small=READY)
        assert fleet.registry.outage("large") == (
            "Model 'large' waits: engine large is away (until Tue 24 Nov 22:00 (Europe/Berlin): it runs in off-peak "
            "windows only)"
        )
        absence = fleet.registry.absence("large")
        assert absence is not None
        assert absence.ready_at is not None
        assert absence.ready_at >= at("2026-11-24 22:00")
        clock.set("2026-11-24 22:00")
        await fleet.until(large=READY, small=AWAY)
        clock.set("2026-11-25 06:00")
        await fleet.until(large=AWAY, small=READY)
        assert fleet.engines["small"].status().incarnation == 2


async def test_an_engine_starts_only_when_the_one_in_its_place_has_gone() -> None:
    clock = Clock("2026-11-24 21:00")
    drained = Life("small", ("small",), Hours.PEAK, drain_seconds=30)
    async with led(LARGE, drained, clock=clock, time_scale=1.0) as fleet:
        await fleet.until(large=AWAY, small=READY)
        talking = asyncio.create_task(fleet.engines["small"].generate(request("small", tokens=30)))
        await asyncio.sleep(0)
        clock.set("2026-11-24 22:00")
        await fleet.life.look()
        assert fleet.states() == {"large": AWAY, "small": AWAY}
        assert fleet.engines["large"].status().reason == "starts when small is gone"
        with pytest.raises(EngineUnavailable, match="until Wed 25 Nov 06:00"):
            await fleet.engines["small"].generate(request("small"))
        assert (await talking).ok
        await fleet.until(large=READY, small=AWAY)


async def test_what_is_not_done_when_the_drain_is_over_is_aborted_and_no_death() -> None:
    clock = Clock("2026-11-24 21:00")
    hasty = Life("small", ("small",), Hours.PEAK, drain_seconds=0.05)
    async with led(LARGE, hasty, clock=clock, time_scale=1.0) as fleet:
        await fleet.until(large=AWAY, small=READY)
        talking = asyncio.create_task(fleet.engines["small"].generate(request("small", tokens=1000)))
        await asyncio.sleep(0)
        clock.set("2026-11-24 22:00")
        await fleet.until(large=READY, small=AWAY)
        with pytest.raises(EngineUnavailable) as raised:
            await talking
        assert not raised.value.died


async def test_a_window_that_opens_again_during_the_drain_brings_the_engine_back() -> None:
    clock = Clock("2026-11-24 23:00")
    async with led(LARGE, clock=clock, time_scale=1.0) as fleet:
        await fleet.until(large=READY)
        talking = asyncio.create_task(fleet.engines["large"].generate(request("large", tokens=30)))
        await asyncio.sleep(0)
        clock.set("2026-11-25 06:00")
        await fleet.life.look()
        clock.set("2026-11-24 23:30")  # someone set the clock back
        await fleet.until(large=READY)
        assert (await talking).ok
        assert fleet.engines["large"].status().incarnation == 2


async def test_a_model_takes_its_turn_when_work_waits_for_it_and_goes_home_after_it() -> None:
    clock = Clock("2026-11-24 12:00")
    home, big = Life("home", ("home",), Hours.ALWAYS, turns="gpu"), Life("big", ("big",), Hours.ALWAYS, turns="gpu")
    async with led(home, big, clock=clock) as fleet:
        await fleet.until(home=READY, big=AWAY)
        fleet.life.want({"big": 5000.0})
        clock.set("2026-11-24 12:05")
        await fleet.until(home=AWAY, big=READY)
        assert fleet.engines["home"].status().reason == "model big has its turn in 'gpu'"
        fleet.life.want({})
        clock.set("2026-11-24 12:10")
        await fleet.until(home=READY, big=AWAY)


async def test_a_chat_keeps_its_turn_while_people_are_being_answered() -> None:
    clock = Clock("2026-11-24 12:00")
    home, big = Life("home", ("home",), Hours.ALWAYS, turns="gpu"), Life("big", ("big",), Hours.ALWAYS, turns="gpu")
    async with led(home, big, clock=clock) as fleet:
        await fleet.until(home=READY, big=AWAY)
        fleet.life.want({"big": 5000.0})
        clock.set("2026-11-24 12:05")
        with fleet.registry.presence.online("home"):
            await fleet.life.look()
            assert fleet.states() == {"home": READY, "big": AWAY}
        await fleet.until(home=AWAY, big=READY)


async def test_work_for_an_adapter_counts_for_its_model_and_a_model_that_is_elsewhere_too_is_never_absent() -> None:
    clock = Clock("2026-11-24 12:00")
    models = [simulated_model(name, CPU) for name in ("base", "tuned", "shared")]
    base = Supervised(SimulatedEngine("base", CPU, models=models, now=clock), now=clock)
    upstream = Supervised(SimulatedEngine("upstream", CPU, models=models[2:], now=clock), now=clock)
    lives = Lives(
        (Life("home", ("home",), Hours.ALWAYS, turns="gpu"), Life("base", ("base",), Hours.ALWAYS, turns="gpu")), NIGHTS
    )
    registry = Registry([engine("home", clock), base, upstream], led=lives.engines)
    life = EngineLife(registry, lives, now=clock)
    try:
        life.want({"tuned": 100.0})
        await life.look()
        assert base.status().state is EngineState.STARTING
        assert life.absent() == {"home"}
        assert set(life.served()) == {"home", "base", "tuned"}
    finally:
        await life.close()
        await registry.stop()


# --- with batches


@asynccontextmanager
async def world_of(tmp_path: Path, fleet: Led, hold: Hold | None = None) -> AsyncIterator[tuple[World, Scheduler]]:
    settings = StoreSettings(disk_reserve_bytes=1024, index_workers_max=1)
    async with await open_store(tmp_path / "data", settings=settings) as store:
        world = World(store, fleet.registry, SETTINGS)
        scheduler = Scheduler(
            store, fleet.registry, SETTINGS, holder="one", now=fleet.clock, hold=hold, lives=fleet.lives
        )
        async with running(scheduler):
            yield world, scheduler
            await scheduler.stop(0)


async def nothing_leased(world: World, batch: BatchRecord) -> bool:
    return all(shard.state is not ShardState.LEASED for shard in await world.store.work.shards(batch.id))


def some_done(count: int) -> Callable[..., bool]:
    return lambda batch: batch.counts.completed >= count


async def test_a_batch_stops_with_its_window_says_so_and_goes_on_in_the_next(tmp_path: Path) -> None:
    clock = Clock("2026-11-24 23:00")
    hasty = Life("large", ("large",), Hours.OFF_PEAK, drain_seconds=0.05)
    async with led(hasty, clock=clock, time_scale=0.1) as fleet, world_of(tmp_path, fleet) as (world, _):
        lines = [chat(f"row-{no}", f"question {no}", model="large", max_tokens=50) for no in range(400)]
        batch = await world.batch(lines)
        await world.until(batch, some_done(20))
        clock.set("2026-11-25 06:00")
        waiting = await world.until(batch, lambda found: "is away" in (found.pause_reason or ""))
        assert waiting.status is BatchStatus.IN_PROGRESS
        assert "until Wed 25 Nov 22:00 (Europe/Berlin)" in (waiting.pause_reason or "")
        assert waiting.counts.completed < len(lines)
        await poll(lambda: nothing_leased(world, batch))
        clock.set("2026-11-25 22:00")
        ended = await world.ended(batch)
        assert (ended.status, ended.counts.completed, ended.counts.failed) == (BatchStatus.COMPLETED, len(lines), 0)
        output, _ = await world.results(ended)
        assert [line["custom_id"] for line in output] == [line["custom_id"] for line in lines]


async def test_lines_in_flight_when_the_window_ends_finish_during_the_drain(tmp_path: Path) -> None:
    """Also where the batch itself has to wait for the next window from then on."""
    clock = Clock("2026-11-25 05:59:58")  # a larger step would end the leases too
    patient = Life("large", ("large",), Hours.OFF_PEAK, drain_seconds=30)
    hold = Hold(NIGHTS, 1.25, 600.0)
    async with led(patient, clock=clock, time_scale=1.0) as fleet, world_of(tmp_path, fleet, hold) as (world, _):
        lines = [chat(f"row-{no}", "hello", model="large", max_tokens=60, ignore_eos=True) for no in range(8)]
        batch = await world.batch(lines)
        await fleet.all_running(8)
        clock.set("2026-11-25 06:00")
        ended = await world.ended(batch)
        assert (ended.counts.completed, fleet.engines["large"].status().incarnation) == (8, 1)


async def test_a_person_who_pauses_a_batch_does_not_wait_for_the_drain(tmp_path: Path) -> None:
    clock = Clock("2026-11-25 05:59:58")
    patient = Life("large", ("large",), Hours.OFF_PEAK, drain_seconds=30)
    async with led(patient, clock=clock, time_scale=1.0) as fleet, world_of(tmp_path, fleet) as (world, scheduler):
        lines = [chat(f"row-{no}", "hello", model="large", max_tokens=1000, ignore_eos=True) for no in range(8)]
        batch = await world.batch(lines)
        await fleet.all_running(8)
        await world.store.batches.hold("t", batch.id, reason="paused", at=1)
        clock.set("2026-11-25 06:00")
        scheduler.wake()
        await fleet.until(large=AWAY)
        await fleet.all_running(0)
        assert (await world.get(batch)).counts.completed == 0


async def test_batches_of_two_models_that_do_not_fit_together_run_one_after_the_other(tmp_path: Path) -> None:
    clock = Clock("2026-11-24 23:00")
    one, two = Life("one", ("one",), Hours.ALWAYS, turns="gpu"), Life("two", ("two",), Hours.ALWAYS, turns="gpu")
    limits = TurnLimits(seconds_max=1e-3, seconds_min=1e-3, start_multiple=0.0)
    async with led(one, two, clock=clock, limits=limits) as fleet, world_of(tmp_path, fleet) as (world, _):
        together: list[set[str]] = []
        fleet.registry.on_change(
            lambda: together.append({name for name, state in fleet.states().items() if state is not AWAY})
        )
        batches = [
            await world.batch([chat(f"{model}-{no}", "hello", model=model) for no in range(60)])
            for model in ("one", "two")
        ]
        await world.ended(batches[0])
        clock.at += 1.0
        for batch in batches:
            assert (await world.ended(batch)).counts.completed == 60
        assert {"two"} in together
        assert not any({"one", "two"} <= names for names in together)
