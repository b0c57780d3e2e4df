"""The clock that the month below runs on: it jumps over idle time and over nothing else."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from pathlib import Path

import aiosqlite
import pytest

from tests.simulation.virtual_time import run_in_virtual_time, virtual_loop

DAY_SECONDS = 86_400.0
WORK_SECONDS = 0.05
HASTE = 100.0
"""Real seconds within which virtual days must be over, on a machine however busy."""


def test_a_month_of_sleep_takes_no_time() -> None:
    async def main() -> float:
        begun = virtual_loop().time()
        await asyncio.sleep(30 * DAY_SECONDS)
        return virtual_loop().time() - begun

    begun = time.monotonic()
    assert run_in_virtual_time(main()) >= 30 * DAY_SECONDS
    assert time.monotonic() - begun < HASTE


def test_timers_fire_in_their_order_and_at_their_time() -> None:
    async def main() -> list[tuple[str, int]]:
        loop, fired = virtual_loop(), []
        begun = loop.time()

        async def note(name: str, seconds: float) -> None:
            await asyncio.sleep(seconds)
            fired.append((name, round((loop.time() - begun) / DAY_SECONDS)))

        await asyncio.gather(
            note("late", 9 * DAY_SECONDS), note("early", 2 * DAY_SECONDS), note("mid", 5 * DAY_SECONDS)
        )
        return fired

    assert run_in_virtual_time(main()) == [("early", 2), ("mid", 5), ("late", 9)]


async def _passed_meanwhile(work: asyncio.Future[None]) -> float:
    """Virtual seconds while something works outside of the loop and a timer is due in a day."""
    loop = virtual_loop()
    tomorrow = loop.call_later(DAY_SECONDS, lambda: None)
    begun = loop.time()
    await work
    tomorrow.cancel()
    return loop.time() - begun


def test_the_clock_waits_for_a_thread() -> None:
    async def main() -> float:
        return await _passed_meanwhile(asyncio.ensure_future(asyncio.to_thread(time.sleep, WORK_SECONDS)))

    assert WORK_SECONDS <= run_in_virtual_time(main()) < DAY_SECONDS


def test_the_end_of_the_loop_waits_for_its_threads() -> None:
    left = threading.Event()

    def linger() -> None:
        time.sleep(WORK_SECONDS)
        left.set()

    async def main() -> None:
        virtual_loop().run_in_executor(None, linger).cancel()

    run_in_virtual_time(main())
    assert left.is_set()


def test_the_clock_waits_for_sqlite(tmp_path: Path) -> None:
    async def main() -> float:
        async with aiosqlite.connect(tmp_path / "a.sqlite") as connection:
            await connection.create_function("slow", 0, lambda: time.sleep(WORK_SECONDS))

            async def ask() -> None:
                await connection.execute("SELECT slow()")

            return await _passed_meanwhile(asyncio.ensure_future(ask()))

    assert WORK_SECONDS <= run_in_virtual_time(main()) < DAY_SECONDS


def test_the_clock_waits_for_another_process() -> None:
    async def main() -> float:
        async def ask() -> None:
            with virtual_loop().at_real_pace():
                process = await asyncio.create_subprocess_exec("sleep", str(WORK_SECONDS))
                await process.wait()

        return await _passed_meanwhile(asyncio.ensure_future(ask()))

    assert WORK_SECONDS <= run_in_virtual_time(main()) < DAY_SECONDS


def test_an_error_of_sqlite_lets_the_clock_go_on(tmp_path: Path) -> None:
    async def main() -> float:
        async with aiosqlite.connect(tmp_path / "a.sqlite") as connection:
            with pytest.raises(sqlite3.OperationalError):
                await connection.execute("SELECT nothing FROM nowhere")
        begun = virtual_loop().time()
        await asyncio.sleep(DAY_SECONDS)
        return virtual_loop().time() - begun

    assert run_in_virtual_time(main()) >= DAY_SECONDS
