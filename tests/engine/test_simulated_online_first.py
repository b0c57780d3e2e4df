"""Online first on the simulated device: who takes part, who keeps what, and that everyone ends."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.protocol import CHAT_COMPLETIONS, EngineRequest
from engine.simulated import SimulatedEngine
from engine.simulated.device import Device, Plan
from engine.simulated.online_first import ROTATE_STEPS, OnlineFirst
from engine.simulated.profiles import CPU_135M, GPU_8B, SimulatedProfile
from engine.simulated.sequence import SequenceState
from engine.simulated.text import block_hashes
from engine.vllm.online_first.policy import Mode, Orders

TINY = replace(CPU_135M, kv_tokens_max=512, context_tokens_max=256, running_max=8, block_tokens=16, step_tokens_max=64)
TURNS_MAX = 20_000


def sequence(prompt_tokens: int, output_tokens: int, priority: int = 10, *, block_tokens: int = 32) -> SequenceState:
    content = random.Random(prompt_tokens * 31 + output_tokens).randbytes(prompt_tokens * 4)
    return SequenceState(prompt_tokens, block_hashes(content, block_tokens), output_tokens, priority)


def device(profile: SimulatedProfile = CPU_135M, *, online_slots: int = 2, orders: Orders | None = None) -> Device:
    made = Device(profile)
    made.online_first = OnlineFirst(online_slots=online_slots, orders=orders, clock=lambda: 0.0)
    return made


def step(made: Device) -> Plan:
    plan = made.plan()
    made.apply(plan, 1)
    return plan


def play(made: Device) -> list[SequenceState]:
    finished: list[SequenceState] = []
    for _ in range(TURNS_MAX):
        if made.idle:
            return finished
        plan = made.plan()
        finished += made.apply(plan, plan.steps).finished
    raise AssertionError("the queue never empties")


def trained(profile: SimulatedProfile = CPU_135M, *, orders: Orders | None = None) -> Device:
    """A device whose step model has seen prompts and decodes of the batch alone, with its slots full."""
    made = device(profile, orders=orders)
    for number in range(200):
        made.add(sequence(40 + number % 7, 20 + number % 50))
    for _ in range(TURNS_MAX):
        if made.idle:
            break
        step(made)
    for number in range(profile.running_max):
        made.add(sequence(10 + number % 3, 400))
    while not all(each.decoding for each in made.running) or made.waiting:
        if len(made.running) == profile.running_max:
            break
        step(made)
    return made


@pytest.mark.parametrize("profile", [CPU_135M, GPU_8B], ids=lambda profile: profile.name)
@pytest.mark.parametrize("factor", [1.1, 1.25, 1.5, 2.0])
def test_a_step_beside_an_online_request_lasts_as_long_as_it_may(profile: SimulatedProfile, factor: float) -> None:
    made = trained(profile, orders=Orders(itl_factor_max=factor))
    online = sequence(60, 30, 0)
    made.add(online)
    while not online.generated:
        step(made)
    steps = [step(made).step_seconds for _ in range(20)]
    alone = profile.seconds_of_step(1, 0)
    assert max(steps) <= alone * factor * 1.02
    assert made.running.count(online) == 1


def test_the_others_keep_their_cache_and_go_on_in_turns() -> None:
    made = trained()
    online = sequence(60, ROTATE_STEPS * 20, 0)
    made.add(online)
    while not online.generated:
        step(made)
    before = {each: each.generated for each in made.running}
    preemptions = made.preemptions
    plan = step(made)
    assert plan.parked
    assert made.cache.held > 0
    for _ in range(ROTATE_STEPS * 18):
        step(made)
    assert made.preemptions == preemptions
    went_on = [each for each in before if each.generated > before[each] or each.finished]
    assert len(went_on) == len(before)


def test_an_online_request_gets_a_slot_when_all_are_taken() -> None:
    made = device(replace(CPU_135M, running_max=8), online_slots=0)
    for number in range(20):
        made.add(sequence(20 + number, 200))
    for _ in range(5):
        step(made)
    assert len(made.running) == 8
    online = sequence(30, 5, 0)
    made.add(online)
    step(made)
    assert online in made.running
    assert made.preemptions == 1


def test_an_online_request_gets_cache_when_the_batch_holds_all_of_it() -> None:
    made = device(TINY)
    for number in range(6):
        made.add(sequence(60 + number, 100, block_tokens=16))
    while made.cache.free > 2:
        step(made)
    online = sequence(200, 20, 0, block_tokens=16)
    made.add(online)
    step(made)
    assert online in made.running
    assert online in play(made)
    assert made.cache.held == 0


def test_a_parked_request_that_is_aborted_leaves_nothing_behind() -> None:
    made = trained()
    made.add(sequence(60, 500, 0))
    while not (plan := made.plan()).parked:
        made.apply(plan, 1)
    gone = next(iter(plan.parked))
    made.remove(gone)  # between planning a step and its end
    made.apply(plan, 1)
    assert gone not in made.running
    generated = gone.generated
    play(made)
    assert gone.generated == generated
    assert made.cache.held == 0


def test_while_an_online_prompt_is_read_the_step_is_hardly_longer_than_alone() -> None:
    made = trained()
    online = sequence(500, 5, 0)
    made.add(online)
    plan = step(made)
    assert sum(tokens for each, tokens in plan.prefill if each is online) == 500
    assert plan.step_seconds <= CPU_135M.seconds_of_step(1, 500) * 1.02


def test_a_paused_device_has_nothing_to_do_for_the_batch_and_goes_on_where_it_was() -> None:
    made = trained()
    generated = {each: each.generated for each in made.running}
    online_first = made.online_first
    assert online_first is not None
    online_first.orders = Orders(is_paused=True)
    assert made.idle
    online = sequence(20, 10, 0)
    made.add(online)
    assert play(made) == [online]
    assert {each: each.generated for each in generated} == generated
    online_first.orders = Orders()
    assert set(generated) <= set(play(made))


def test_in_priority_mode_steps_are_those_of_a_device_without_it() -> None:
    def times(made: Device) -> list[float]:
        for number in range(40):
            made.add(sequence(30 + number % 9, 40, 10 if number % 5 else 0))
        found = []
        while not made.idle:
            plan = made.plan()
            found.append(plan.step_seconds * plan.steps)
            made.apply(plan, plan.steps)
        return found

    assert times(device(orders=Orders(mode=Mode.PRIORITY))) == times(Device(CPU_135M))


FACTORS = st.sampled_from([1.0, 1.25, 1.5, 3.0])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), factor=FACTORS, profile=st.sampled_from([TINY, replace(TINY, kv_tokens_max=4_096)]))
def test_whatever_comes_and_goes_nobody_starves_and_nothing_leaks(
    seed: int, factor: float, profile: SimulatedProfile
) -> None:
    """Online requests come again and again, in some runs without a pause: the batch must end all the same."""
    chance = random.Random(seed)
    made = device(profile, online_slots=chance.randint(0, 3), orders=Orders(itl_factor_max=factor))
    batch = {sequence(chance.randint(1, 120), chance.choice([0, 1, 30, 90]), block_tokens=16) for _ in range(20)}
    for each in sorted(batch, key=lambda each: each.prompt_tokens):
        made.add(each)
    online: set[SequenceState] = set()
    often = chance.choice([0.02, 0.5, 1.0])
    for _ in range(TURNS_MAX):
        if not batch:
            break
        if not online and chance.random() < often:
            came = sequence(chance.randint(1, 60), chance.randint(1, 60), 0, block_tokens=16)
            made.add(came)
            online.add(came)
        if chance.random() < 0.01:
            gone = chance.choice(sorted(batch | online, key=lambda each: each.arrival))
            made.remove(gone)
            batch.discard(gone)
            online.discard(gone)
        if made.idle:
            continue
        plan = made.plan()
        assert len(made.running) <= profile.running_max
        assert not any(each.is_online for each in plan.parked)
        finished = set(made.apply(plan, plan.steps).finished)
        batch -= finished
        online -= finished
        assert made.cache.held <= made.cache.blocks
    assert not batch
    play(made)
    assert made.cache.held == 0


def chat(text: str, priority: int, output_tokens: int) -> EngineRequest:
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": output_tokens, "ignore_eos": True}
    return EngineRequest(text, "simulated-cpu-135m", CHAT_COMPLETIONS, json.dumps(body).encode(), priority)


async def test_the_engine_pauses_its_batch_by_order_and_answers_online_meanwhile() -> None:
    engine = SimulatedEngine("sim", CPU_135M, orders=Orders(), online_slots=2)
    await engine.start()
    engine.give_orders(Orders(is_paused=True))
    batch = [asyncio.create_task(engine.generate(chat(f"line {number}", 10, 50))) for number in range(20)]
    assert (await engine.generate(chat("hello", 0, 20))).ok
    assert not any(each.done() for each in batch)
    engine.give_orders(Orders())
    assert all(result.ok for result in await asyncio.gather(*batch))
    await engine.stop()


async def test_answers_do_not_depend_on_who_was_beside() -> None:
    async def answers(*, online_first: bool) -> list[bytes]:
        engine = SimulatedEngine("sim", CPU_135M, orders=Orders() if online_first else None)
        await engine.start()
        requests = [chat(f"line {number}", 10 if number % 4 else 0, 60) for number in range(40)]
        results = await asyncio.gather(*(engine.generate(request) for request in requests))
        await engine.stop()
        return [result.body for result in results]

    assert await answers(online_first=True) == await answers(online_first=False)
