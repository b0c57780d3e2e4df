"""Back-off and crash loops as arithmetic, and an engine that is kept alive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.backoff import BackoffPolicy, CrashHistory, delay_seconds
from engine.protocol import CHAT_COMPLETIONS, EngineBlocked, EngineRequest, EngineState, EngineUnavailable
from engine.simulated import PROFILES, SimulatedEngine, SimulatedFaults
from engine.start_times import StartTimes
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


class Blockable(SimulatedEngine):
    """Refuses to start while someone else holds the memory."""

    blocked_by: str | None = None

    async def start(self) -> None:
        if self.blocked_by is not None:
            raise EngineBlocked(self.blocked_by)
        await super().start()


class Kept:
    """A simulated engine under supervision, and the changes that were told."""

    def __init__(self, policy: BackoffPolicy, faults: SimulatedFaults | None = None) -> None:
        self.clock = Clock()
        self.inner = Blockable("sim", PROFILES["cpu-135m"], faults=faults or SimulatedFaults())
        self.start_times = StartTimes()
        self.engine = Supervised(
            self.inner,
            policy,
            now=self.clock,
            chance=lambda: 0.0,
            blocked_policy=FAST,
            start_times=self.start_times,
        )
        self._changed = asyncio.Event()
        self.engine.on_change(self._changed.set)

    async def until(self, state: EngineState, incarnation: int | None = None) -> None:
        def reached() -> bool:
            status = self.engine.status()
            return status.state is state and incarnation in (None, status.incarnation)

        await self.holds(reached)

    async def holds(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
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


async def test_an_engine_that_leaves_drains_takes_nothing_new_and_comes_back(kept: Kept) -> None:
    await kept.engine.start()
    await kept.until(EngineState.READY)
    running = asyncio.create_task(kept.engine.generate(CHAT))
    await asyncio.sleep(0)
    leaving = asyncio.create_task(kept.engine.leave(10.0))
    kept.engine.explain_absence("until Tue 22:00", back_at=kept.clock() + 3600)
    with pytest.raises(EngineUnavailable, match="away: until Tue 22:00") as raised:
        await kept.engine.generate(CHAT)
    assert not raised.value.died
    await leaving
    assert (await running).ok
    assert kept.inner.status().state is EngineState.STOPPED
    await kept.engine.start()
    await kept.until(EngineState.READY, incarnation=2)


async def test_an_engine_that_is_called_back_while_it_leaves_starts_when_it_has_left(kept: Kept) -> None:
    await kept.engine.start()
    await kept.until(EngineState.READY)
    leaving = asyncio.create_task(kept.engine.leave(0.0))
    await asyncio.sleep(0)
    await kept.engine.start()
    await leaving
    await kept.until(EngineState.READY, incarnation=2)
    assert (await kept.engine.generate(CHAT)).ok


async def test_an_engine_waits_for_memory_that_someone_else_holds_and_says_who(kept: Kept) -> None:
    kept.inner.blocked_by = "sim needs 4.0 GiB of cuda:0; held by python (pid 7, 20.0 GiB)"
    await kept.engine.start()
    await kept.holds(lambda: kept.engine.status().reason == kept.inner.blocked_by)
    assert kept.engine.status().state is EngineState.STARTING
    with pytest.raises(EngineUnavailable, match="held by python"):
        await kept.engine.generate(CHAT)
    for _ in range(10):  # ... however often it is tried: it is no crash loop
        await asyncio.sleep(0)
    assert kept.engine.status().state is EngineState.STARTING
    kept.inner.blocked_by = None
    await kept.until(EngineState.READY, incarnation=1)


@pytest.mark.parametrize("kept", [(FAST, SimulatedFaults(start_seconds=0.05))], indirect=True)
async def test_the_next_start_is_expected_to_take_as_long_as_the_last(kept: Kept) -> None:
    await kept.engine.start()
    await kept.until(EngineState.READY)
    measured = kept.start_times.seconds("sim")
    assert 0.05 <= measured < 5
    await kept.engine.leave(0.0)
    kept.engine.explain_absence("until then", back_at=kept.clock() + 100)
    assert kept.engine.status().ready_at == kept.clock() + 100 + measured
    await kept.engine.start()
    assert kept.engine.status().ready_at == kept.clock() + measured
