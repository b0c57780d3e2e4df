"""Back-off and crash loops as arithmetic, and an engine that is kept alive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.backoff import BackoffPolicy, CrashHistory, delay_seconds
from engine.protocol import CHAT_COMPLETIONS, EngineRequest, EngineState, EngineUnavailable
from engine.simulated import PROFILES, SimulatedEngine, SimulatedFaults
from engine.supervisor import Supervised

POLICY = BackoffPolicy()
FAST = BackoffPolicy(first_seconds=0.0, longest_seconds=0.0)
HELD = BackoffPolicy(first_seconds=3_600.0, longest_seconds=3_600.0, jitter=0.0)
CHAT = EngineRequest("1", "simulated-cpu-135m", CHAT_COMPLETIONS, b'{"messages":[{"role":"user","content":"hi"}]}')


def test_waits_double_until_the_crash_loop() -> None:
    assert [delay_seconds(POLICY, deaths, 0.0) for deaths in (1, 2, 3, 4)] == [1.0, 2.0, 60.0, 60.0]


@given(deaths=st.integers(1, 1_000), chance=st.floats(0, 1))
def test_a_wait_is_never_longer_than_the_longest_nor_nothing(deaths: int, chance: float) -> None:
    assert 0 < delay_seconds(POLICY, deaths, chance) <= POLICY.longest_seconds


def test_the_third_death_in_ten_minutes_is_a_crash_loop() -> None:
    history = CrashHistory()
    for at in (0.0, 300.0):
        history = history.after_death(at, POLICY)
        assert not history.is_crash_loop(POLICY)
    assert history.after_death(599.0, POLICY).is_crash_loop(POLICY)
    assert not history.after_death(601.0, POLICY).is_crash_loop(POLICY)


class Clock:
    def __init__(self) -> None:
        self.at = 1_800_000_000.0

    def __call__(self) -> float:
        return self.at


class Kept:
    """A simulated engine under supervision, and the changes that were told."""

    def __init__(self, policy: BackoffPolicy, faults: SimulatedFaults | None = None) -> None:
        self.clock = Clock()
        self.inner = SimulatedEngine("sim", PROFILES["cpu-135m"], faults=faults or SimulatedFaults())
        self.engine = Supervised(self.inner, policy, now=self.clock, chance=lambda: 0.0)
        self._changed = asyncio.Event()
        self.engine.on_change(self._changed.set)

    async def until(self, state: EngineState, incarnation: int | None = None) -> None:
        async with asyncio.timeout(10):
            while self.engine.status().state is not state or incarnation not in (
                None,
                self.engine.status().incarnation,
            ):
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
async def kept(request: pytest.FixtureRequest) -> AsyncIterator[Kept]:
    policy, faults = getattr(request, "param", (FAST, None))
    made = Kept(policy, faults)
    yield made
    await made.engine.stop()


async def test_a_dead_engine_is_started_again(kept: Kept) -> None:
    await kept.engine.start()
    await kept.until(EngineState.READY, incarnation=1)
    kept.inner.kill("out of memory")
    assert kept.engine.status().state is EngineState.RESTARTING
    assert kept.engine.status().reason == "out of memory"
    await kept.until(EngineState.READY, incarnation=2)
    assert (await kept.engine.generate(CHAT)).ok


@pytest.mark.parametrize("kept", [(FAST, SimulatedFaults(failing_starts=2))], indirect=True)
async def test_a_start_that_fails_is_tried_again(kept: Kept) -> None:
    await kept.engine.start()
    await kept.until(EngineState.READY)
    status = kept.engine.status()
    assert (status.starts, status.incarnation) == (3, 1)


@pytest.mark.parametrize("kept", [(HELD, SimulatedFaults(failing_starts=-1))], indirect=True)
async def test_a_start_never_raises_and_the_cause_is_in_the_status(kept: Kept) -> None:
    await kept.engine.start()
    await kept.until(EngineState.RESTARTING)
    assert kept.engine.status().reason == "simulated: out of memory while loading weights"
    with pytest.raises(EngineUnavailable, match="loading weights") as raised:
        await kept.engine.generate(CHAT)
    assert not raised.value.died


async def test_the_third_death_says_since_when_how_often_and_why(kept: Kept) -> None:
    await kept.engine.start()
    for life in (1, 2, 3):
        await kept.until(EngineState.READY, incarnation=life)
        kept.clock.at += 60
        kept.inner.kill(f"cause {life}")
    reasons: list[str | None] = []
    kept.engine.on_change(lambda: reasons.append(kept.engine.status().reason))
    await kept.until(EngineState.READY, incarnation=4)
    said = next(reason for reason in reasons if reason and reason.startswith("down since "))
    assert said.endswith(", 3 starts, last cause: cause 3")


async def test_deaths_far_apart_are_no_crash_loop(kept: Kept) -> None:
    states: set[EngineState] = set()
    kept.engine.on_change(lambda: states.add(kept.engine.status().state))
    await kept.engine.start()
    for life in range(1, 5):
        await kept.until(EngineState.READY, incarnation=life)
        kept.clock.at += 301
        kept.inner.kill()
    await kept.until(EngineState.READY, incarnation=5)
    assert EngineState.DOWN not in states


@pytest.mark.parametrize("kept", [(HELD, SimulatedFaults(start_seconds=3_600.0))], indirect=True)
async def test_a_stop_does_not_wait_for_a_slow_start(kept: Kept) -> None:
    await kept.engine.start()
    assert kept.engine.status().state is EngineState.STARTING
    await asyncio.wait_for(kept.engine.stop(), 5)
    assert kept.engine.status().state is EngineState.STOPPED
    assert kept.inner.status().state is EngineState.STOPPED
