"""What the log says of engines that start, and how long it took."""

from __future__ import annotations

import asyncio
import logging

import pytest

from engine.protocol import EngineState
from engine.registry import Registry
from engine.simulated import PROFILES, SimulatedEngine
from engine.supervisor import Supervised
from nightbatch.narration import EngineNarrator


async def test_the_time_that_an_engine_was_away_is_not_the_time_that_it_took_to_start(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="nightbatch.narration")
    clock = [1000.0]
    engine = Supervised(SimulatedEngine("sim", PROFILES["cpu-135m"]), now=lambda: clock[0])
    registry = Registry([engine], led={"sim"})
    ready = asyncio.Event()
    registry.on_change(EngineNarrator(registry, lambda: clock[0]).look)
    registry.on_change(lambda: ready.set() if engine.status().state is EngineState.READY else None)
    for _ in range(2):
        engine.explain_absence("until tonight", back_at=None)
        await engine.leave(0.0)
        clock[0] += 8 * 3600
        ready.clear()
        await engine.start()
        async with asyncio.timeout(10):
            await ready.wait()
    await engine.stop()
    assert [record.getMessage() for record in caplog.records] == [
        "engine sim is starting",
        "engine sim is ready after 0 s",
    ] * 2
