"""A real engine that gives the machine back at the end of its window and is there again at the next."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from engine.protocol import EngineState
from nightbatch.compose import House, compose
from nightbatch.config import load
from store import BatchStatus
from tests.engine.vllm.harness import CHAT_MODEL, host_pids
from tests.scheduler.world import SETTINGS, World, chat, running

pytestmark = [pytest.mark.real_engine, pytest.mark.timeout(600)]

GONE_SECONDS_MAX = 60.0
DRAIN_SECONDS = 3
CONFIG = f"""
[windows]
timezone = "UTC"
outside = "hold"
[[windows.off_peak]]
name = "night"
start = "22:00"
end = "06:00"
[[models]]
id = "{CHAT_MODEL}"
device = "cpu"
release = "stop"
drain_seconds = {DRAIN_SECONDS}
engine_args = {{ max_model_len = 1024, max_num_seqs = 8 }}
"""


class Clock:
    """Wall-clock time that runs as ours does, from whenever it was set to."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self._ahead

    def set(self, text: str) -> None:
        self._ahead = datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() - time.time()


async def until(condition: Callable[[], bool], seconds_max: float) -> float:
    """How long it took."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds_max, f"not within {seconds_max:.0f} s"
        await asyncio.sleep(0.05)
    return time.monotonic() - begun


def family(pids: list[int]) -> list[psutil.Process]:
    return [member for pid in pids for member in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))]


@asynccontextmanager
async def serving(folder: Path, clock: Clock) -> AsyncIterator[House]:
    file = folder / "nightbatch.toml"
    file.write_text(f'[store]\nfolder = "{folder / "data"}"\ndisk_reserve_mib = 0\n{CONFIG}')
    house = await compose(load(file, environment={}), now=clock)
    try:
        await house.registry.start()
        async with running(house.scheduler):
            yield house
            await house.scheduler.stop(0)
    finally:
        await house.registry.stop()
        await house.store.close()


async def test_an_engine_is_gone_soon_after_its_window_and_the_batch_goes_on_in_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.scheduler.world.PATIENCE_SECONDS", 240.0)
    clock = Clock()
    clock.set("2026-11-24 23:00")
    async with serving(tmp_path, clock) as house:
        (engine,) = house.registry.engines()
        await until(lambda: engine.status().state is EngineState.READY, 240)
        world = World(house.store, house.registry, SETTINGS)
        lines = [chat(f"row-{no}", f"Count to {no}.", model=CHAT_MODEL, max_tokens=8 + no) for no in range(64)]
        batch = await world.batch(lines)
        await world.until(batch, lambda found: found.counts.completed >= 8)
        processes = family(list(host_pids(engine.name)))
        assert len(processes) >= 3

        clock.set("2026-11-25 06:00")
        seconds = await until(lambda: not any(map(psutil.Process.is_running, processes)), GONE_SECONDS_MAX)
        print(f"gone {seconds:.1f} s after the window's end ({DRAIN_SECONDS} s of them to drain)")
        waiting = await world.until(batch, lambda found: found.pause_reason is not None)
        assert 8 <= waiting.counts.completed < len(lines)
        assert engine.status().state is EngineState.AWAY
        absence = house.registry.absence(CHAT_MODEL)
        assert absence is not None
        assert absence.reason == "until Wed 25 Nov 22:00 (UTC): it runs in off-peak windows only"

        clock.set("2026-11-25 22:00")
        seconds = await until(lambda: engine.status().state is EngineState.READY, 240)
        print(f"back {seconds:.1f} s after the next window's start")
        ended = await world.ended(batch)
        assert (ended.status, ended.counts.completed, ended.counts.failed) == (BatchStatus.COMPLETED, len(lines), 0)
        output, _ = await world.results(ended)
        assert [line["custom_id"] for line in output] == [line["custom_id"] for line in lines]
        assert house.fleet.start_times.seconds(engine.name) < 240
