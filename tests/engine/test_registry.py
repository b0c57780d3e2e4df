"""Who serves what, who is picked, and what is said when nobody can."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import pytest

from engine.backoff import BackoffPolicy
from engine.protocol import CHAT_COMPLETIONS, EngineRequest, EngineState
from engine.registry import Registry
from engine.selection import least_loaded
from engine.simulated import PROFILES, SimulatedEngine, SimulatedFaults, simulated_model
from engine.supervisor import Supervised

PROFILE = PROFILES["cpu-135m"]
MODEL = simulated_model("m", PROFILE)


def engine(name: str, *, revision: str | None = None, faults: SimulatedFaults | None = None) -> SimulatedEngine:
    model = simulated_model("m", PROFILE, revision=revision)
    return SimulatedEngine(name, PROFILE, models=[model], faults=faults or SimulatedFaults(), time_scale=0.05)


def long_chat(number: int) -> EngineRequest:
    body = {"messages": [{"role": "user", "content": f"{number}"}], "max_tokens": 2_000, "ignore_eos": True}
    return EngineRequest(str(number), "m", CHAT_COMPLETIONS, json.dumps(body).encode())


async def started(*engines: SimulatedEngine) -> Registry:
    registry = Registry(engines, {"default": "m"})
    for each in engines:
        await each.start()
    return registry


async def test_two_engines_may_not_have_one_name() -> None:
    with pytest.raises(ValueError, match="more than once: a"):
        Registry([engine("a"), engine("a")])


async def test_aliases_and_ids_lead_to_the_model() -> None:
    registry = await started(engine("a"))
    assert registry.resolve("default") == registry.resolve("m") == MODEL
    assert registry.resolve("nothing") is None
    await registry.stop()


async def test_the_least_loaded_engine_is_picked_and_equals_take_turns() -> None:
    a, b = engine("a"), engine("b")
    registry = await started(a, b)
    assert Counter(picked.name for _ in range(10) if (picked := registry.pick("m"))) == {"a": 5, "b": 5}
    flying = asyncio.create_task(a.generate(long_chat(0)))
    await asyncio.sleep(0)  # one turn: the request is on the engine
    assert {picked.name for _ in range(4) if (picked := registry.pick("m"))} == {"b"}
    assert registry.pick("m", exclude={"b"}) is a
    assert registry.pick("m", exclude={"a", "b"}) is None
    flying.cancel()
    await registry.stop()


async def test_nobody_to_choose_from_is_none() -> None:
    assert least_loaded([], {}) is None


async def test_a_pinned_revision_never_goes_to_another() -> None:
    old, new = engine("old", revision="r1"), engine("new", revision="r2")
    registry = await started(old, new)
    assert registry.candidates("m", "r1") == [old]
    assert registry.pick("m", "r2") is new
    await old.stop()
    assert registry.outage("m", "r2") is None
    assert registry.outage("m", "r1") == "Model 'm' waits: engine old is stopped"
    assert registry.outage("m", "r0") == "Model 'm' is now served with revision r1, r2, but revision r0 is needed"
    assert registry.outage("x") == "No engine serves model 'x'"
    assert registry.resolve("m") == new.models()[0]
    await registry.stop()


async def test_start_waits_for_nobody_and_a_failed_start_takes_nobody_along() -> None:
    slow = engine("slow", faults=SimulatedFaults(start_seconds=3_600))
    broken = engine("broken", faults=SimulatedFaults(failing_starts=-1))
    good = engine("good")
    registry = Registry([slow, broken, good])
    changed = asyncio.Event()
    registry.on_change(changed.set)
    await registry.start()
    async with asyncio.timeout(10):
        while good.status().state is not EngineState.READY or broken.status().reason is None:
            changed.clear()
            await changed.wait()
    assert registry.candidates("m") == [good]
    assert slow.status().state is EngineState.STARTING
    assert broken.status().reason == "simulated: out of memory while loading weights"
    await registry.stop()
    assert {each.status().state for each in registry.engines()} == {EngineState.STOPPED}


async def test_a_death_is_told_at_once() -> None:
    a = engine("a")
    registry = await started(a)
    told: list[str | None] = []
    registry.on_change(lambda: told.append(registry.outage("m")))
    a.kill("gone")
    assert told == ["Model 'm' waits: engine a is stopped (gone)"]
    await registry.stop()


async def test_a_listener_that_fails_leaves_no_engine_dead() -> None:
    a = engine("a")
    kept = Supervised(a, BackoffPolicy(first_seconds=0.01))
    registry = Registry([kept])
    changed = asyncio.Event()

    def fail() -> None:
        changed.set()
        raise RuntimeError("a listener's own mistake")

    registry.on_change(fail)
    await registry.start()
    for life in (1, 2):
        async with asyncio.timeout(10):
            while (kept.status().state, kept.status().incarnation) != (EngineState.READY, life):
                changed.clear()
                await changed.wait()
        a.kill("gone")
    await registry.stop()


async def test_requests_with_one_prefix_go_to_one_engine_unless_it_is_much_fuller() -> None:
    engines = [engine("a"), engine("b")]
    registry = await started(*engines)
    homes = {prefix: registry.pick("m", prefix=prefix) for prefix in range(1, 40)}
    assert set(homes.values()) == set(engines)
    assert all(registry.pick("m", prefix=prefix) is home for prefix, home in homes.items())
    home = homes[1]
    assert home is not None
    assert registry.pick("m", exclude={home.name}, prefix=1) not in (None, home)
    limit = home.limits().inflight_requests_max
    flying = [asyncio.create_task(home.generate(long_chat(number))) for number in range(limit // 2)]
    await asyncio.sleep(0)  # one turn: the requests are on the engine
    assert registry.pick("m", prefix=1) is not home
    for task in flying:
        task.cancel()
    await registry.stop()
