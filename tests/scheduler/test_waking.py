"""Steps that repeat: by the clock, and sooner when somebody asks."""

from __future__ import annotations

import asyncio

from scheduler.actors.waking import repeat


class Steps:
    """Counts steps and lets a test wait for one."""

    def __init__(self) -> None:
        self.count = 0
        self._taken = asyncio.Condition()

    async def take(self) -> None:
        async with self._taken:
            self.count += 1
            self._taken.notify_all()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(30), self._taken:
            await self._taken.wait_for(lambda: self.count >= count)


async def test_a_step_that_is_asked_for_does_not_wait_for_its_time() -> None:
    steps, asked = Steps(), asyncio.Event()
    repeating = asyncio.create_task(repeat(3600, steps.take, at_once=True, asked=asked))
    await steps.until(1)
    asked.set()
    await steps.until(2)
    repeating.cancel()
    assert steps.count == 2


async def test_what_is_asked_for_during_a_step_is_done_after_it() -> None:
    steps, asked = Steps(), asyncio.Event()

    async def take() -> None:
        await steps.take()
        if steps.count == 1:
            asked.set()

    repeating = asyncio.create_task(repeat(3600, take, at_once=True, asked=asked))
    await steps.until(2)
    repeating.cancel()


async def test_without_being_asked_it_goes_by_the_clock() -> None:
    steps = Steps()
    repeating = asyncio.create_task(repeat(0.001, steps.take))
    await steps.until(3)
    repeating.cancel()


async def test_a_step_that_fails_is_followed_by_the_next() -> None:
    steps = Steps()

    async def take() -> None:
        await steps.take()
        raise RuntimeError("broken")

    repeating = asyncio.create_task(repeat(0.001, take))
    await steps.until(3)
    repeating.cancel()
