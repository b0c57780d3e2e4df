"""How fast a batch goes, and when it will have ended."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.facts.pace import WINDOW_SECONDS, Pace, PaceMeter
from store.records import HELD, BatchStatus
from tests.scheduler.world import TestEngine, World, chats, running


def metered(*samples: tuple[float, int, int]) -> PaceMeter:
    meter = PaceMeter()
    for now, lines, tokens in samples:
        meter.add(now, lines=lines, tokens=tokens)
    return meter


def test_the_rate_is_that_of_the_window_and_the_end_follows_from_it() -> None:
    meter = metered((0, 0, 0), (5, 50, 800), (10, 100, 1600))
    assert meter.pace(lines_left=200, wall_now=1000.0) == Pace(10.0, 160.0, 1020)


def test_the_end_follows_from_the_work_that_is_left_where_long_lines_ran_first() -> None:
    meter = metered((0, 0, 0), (10, 100, 1600))
    shares = {0: 0.0, 100: 0.75, 200: 1.0}
    pace = meter.pace(lines_left=100, wall_now=1000.0, work=shares.__getitem__)
    assert pace == Pace(10.0, 160.0, 1004)
    assert metered((0, 100, 0), (10, 100, 0)).pace(lines_left=100, wall_now=0.0, work=shares.__getitem__) == Pace(
        0.0, 0.0, None
    )


def test_what_lies_before_the_window_does_not_count() -> None:
    meter = metered(
        *((float(at), 100 * at, 0) for at in range(100)), *((100.0 + at, 9_900 + at, 0) for at in range(70))
    )
    pace = meter.pace(lines_left=60, wall_now=0.0)
    assert pace is not None
    assert pace.lines_per_s == pytest.approx(1.0, rel=0.05)
    assert pace.eta_at == pytest.approx(60, abs=4)


@pytest.mark.parametrize("samples", [(), ((0, 5, 5),), ((0, 5, 5), (2.9, 50, 50))])
def test_nothing_is_said_while_too_little_is_known(samples: tuple[tuple[float, int, int], ...]) -> None:
    assert metered(*samples).pace(lines_left=1, wall_now=0.0) is None


def test_a_batch_that_stands_still_has_a_rate_of_zero_and_no_end() -> None:
    assert metered((0, 5, 5), (10, 5, 5)).pace(lines_left=1, wall_now=0.0) == Pace(0.0, 0.0, None)


def test_totals_that_fall_start_anew() -> None:
    assert metered((0, 50, 0), (10, 100, 0), (11, 60, 0)).pace(lines_left=1, wall_now=0.0) is None


@given(st.lists(st.tuples(st.floats(0.1, 5), st.integers(0, 50)), min_size=2, max_size=200))
def test_the_rate_lies_between_the_slowest_and_the_fastest_second(steps: list[tuple[float, int]]) -> None:
    meter, now, lines = PaceMeter(), 0.0, 0
    meter.add(now, lines=0, tokens=0)
    for seconds, more in steps:
        now, lines = now + seconds, lines + more
        meter.add(now, lines=lines, tokens=0)
    pace = meter.pace(lines_left=1, wall_now=0.0)
    if pace is not None:
        rates = [more / seconds for seconds, more in steps]
        assert min(rates) - 0.01 <= pace.lines_per_s <= max(rates) + 0.01
    assert len(meter._samples) <= WINDOW_SECONDS / 0.1 + 3


async def test_a_running_batch_says_how_fast_it_goes_and_a_pause_takes_that_away(
    world: World, engine: TestEngine
) -> None:
    engine.answer_seconds = 0.5
    batch = await world.batch(chats(1000))
    async with running(world.scheduler()):
        seen = await world.until(batch, lambda found: found.eta_at is not None)
        assert seen.lines_per_s is not None
        assert 10 < seen.lines_per_s < 80
        assert seen.tokens_per_s == pytest.approx(2 * seen.lines_per_s, rel=0.3)
        assert seen.eta_at is not None
        assert seen.eta_at > time.time()
        await world.store.batches.hold("t", batch.id, reason=HELD, at=1)
        await world.until(batch, lambda found: found.lines_per_s is None and found.eta_at is None)
        await world.cancel(batch)
        ended = await world.ended(batch)
    assert (ended.status, ended.lines_per_s, ended.eta_at) == (BatchStatus.CANCELLED, None, None)


async def test_of_two_batches_each_has_its_own_pace(world: World, engine: TestEngine) -> None:
    engine.answer_seconds = 0.2
    first, second = await world.batch(chats(2000)), await world.batch(chats(2000))
    async with running(world.scheduler()):
        found = await asyncio.gather(
            *(world.until(batch, lambda seen: seen.lines_per_s is not None) for batch in (first, second))
        )
    # Least slack first: the older one runs, the other waits for it.
    assert all(batch.lines_per_s is not None for batch in found)
