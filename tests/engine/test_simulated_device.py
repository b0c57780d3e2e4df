"""Continuous batching in virtual time: rates, order, cache, preemption."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.simulated.device import Device
from engine.simulated.kv_cache import KvCache
from engine.simulated.profiles import CPU_135M, GPU_8B, SimulatedProfile
from engine.simulated.sequence import SequenceState
from engine.simulated.text import block_hashes

TINY = replace(CPU_135M, kv_tokens_max=512, context_tokens_max=256, running_max=8, block_tokens=16, step_tokens_max=64)


def sequence(prompt: str = "hi", output_tokens: int = 32, priority: int = 10, block_tokens: int = 32) -> SequenceState:
    content = prompt.encode()
    return SequenceState(max(1, -(-len(content) // 4)), block_hashes(content, block_tokens), output_tokens, priority)


def play(device: Device) -> tuple[float, list[SequenceState]]:
    """Run everything; seconds and the order of finishing."""
    seconds, finished = 0.0, []
    while not device.idle:
        plan = device.plan()
        seconds += plan.steps * plan.step_seconds
        finished += device.apply(plan, plan.steps).finished
    return seconds, finished


def tokens_per_second(profile: SimulatedProfile, in_flight: int) -> float:
    device = Device(profile)
    for number in range(in_flight):
        device.add(sequence(f"{number}", 500))
    seconds, _ = play(device)
    return in_flight * 500 / seconds


@pytest.mark.parametrize(("in_flight", "measured"), [(1, 62), (4, 187), (8, 265), (64, 470)])
def test_cpu_135m_is_as_fast_as_what_was_measured(in_flight: int, measured: float) -> None:
    assert tokens_per_second(CPU_135M, in_flight) == pytest.approx(measured, rel=0.04)


def test_gpu_8b_decodes_nearly_flat_and_prefills_dear() -> None:
    assert 200 / tokens_per_second(GPU_8B, 1) == pytest.approx(1.0, rel=0.02)
    assert GPU_8B.seconds_of_step(64, 0) / GPU_8B.seconds_of_step(0, 0) == pytest.approx(1.5)
    chunk = GPU_8B.seconds_of_step(0, 8_192) - GPU_8B.step_seconds
    assert chunk / GPU_8B.seconds_of_step(1, 0) == pytest.approx(50, rel=0.02)


def test_a_profile_that_could_never_serve_its_context_is_refused() -> None:
    with pytest.raises(ValueError, match="would never fit"):
        replace(CPU_135M, kv_tokens_max=1_000)


def test_the_more_urgent_enter_first() -> None:
    device = Device(replace(CPU_135M, running_max=1))
    batch = [sequence(f"b{number}", 4, priority=10) for number in range(3)]
    online = sequence("o", 4, priority=0)
    for each in (*batch, online):
        device.add(each)
    assert play(device)[1] == [online, *batch]


def test_a_shared_prefix_is_computed_once() -> None:
    prefix = "x" * 4 * 32 * 20
    shared, plain = Device(CPU_135M), Device(CPU_135M)
    for number in range(8):
        shared.add(sequence(f"{prefix}{number}", 1))
        plain.add(sequence(f"{number}{prefix}", 1))
    shared_seconds, plain_seconds = play(shared)[0], play(plain)[0]
    assert shared.cache.hits == 7 * 20
    assert plain.cache.hits == 0
    assert plain_seconds > 5 * shared_seconds


def test_cached_blocks_stay_until_the_room_is_needed() -> None:
    cache = KvCache(4)
    assert cache.admit([1, 2], 0) == 0
    cache.release([1, 2], 0)
    assert cache.admit([1, 2], 1) == 2
    cache.release([1, 2], 1)
    assert cache.admit([3, 4, 5], 1) == 0
    assert cache.admit([1], 1) is None
    cache.release([3, 4, 5], 1)
    assert cache.match([1]) == 0


def test_without_room_the_youngest_of_the_least_urgent_gives_way_and_still_finishes() -> None:
    device = Device(TINY)
    sequences = [sequence(f"{number}", 200, priority=number % 2, block_tokens=16) for number in range(4)]
    for each in sequences:
        device.add(each)
    _, finished = play(device)
    assert device.preemptions > 0
    assert set(finished) == set(sequences)
    assert all(each.generated == 200 for each in finished)
    assert {each.priority for each in finished[:2]} == {0}
    assert device.cache.held == 0


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), jump=st.booleans())
def test_whatever_comes_and_goes_everything_ends_and_nothing_leaks(seed: int, jump: bool) -> None:
    chance = random.Random(seed)
    device = Device(TINY)
    alive: set[SequenceState] = set()
    for _ in range(60):
        if chance.random() < 0.5:
            made = sequence("p" * chance.randint(1, 600), chance.choice([0, 1, 40, 100]), chance.randint(0, 2), 16)
            made.watched = not jump
            device.add(made)
            alive.add(made)
        if alive and chance.random() < 0.1:
            gone = chance.choice(sorted(alive, key=lambda each: each.arrival))
            device.remove(gone)
            alive.remove(gone)
        if not device.idle:
            plan = device.plan()
            assert plan.steps >= 1
            assert len(device.running) <= TINY.running_max
            alive.difference_update(device.apply(plan, chance.randint(1, plan.steps)).finished)
            assert device.cache.held <= device.cache.blocks
    alive.difference_update(play(device)[1])
    assert not alive
    assert device.cache.held == 0
