"""Signals that reach the engine's own processes: an aborted answer is no result."""

from __future__ import annotations

import asyncio
import os
import signal

import psutil
import pytest

from engine.protocol import EngineUnavailable
from tests.engine.vllm.harness import VllmUnderTest, host_pids, processes_named

pytestmark = [pytest.mark.real_engine, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]


async def test_an_interrupted_engine_gives_no_half_answers(under_test: VllmUnderTest) -> None:
    flying = [asyncio.create_task(under_test.engine.generate(under_test.long_chat(f"{n}"))) for n in range(8)]
    await under_test.until_running(8)
    (core,) = processes_named("EngineCore", of=host_pids("chat"))
    core.send_signal(signal.SIGINT)
    outcomes = await asyncio.gather(*flying, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [EngineUnavailable] * 8
    await under_test.restart()
    assert (await under_test.engine.generate(under_test.chat())).ok


async def test_engine_processes_share_a_session_that_no_terminal_owns(under_test: VllmUnderTest) -> None:
    (host,) = host_pids("chat")
    processes = [psutil.Process(host), *processes_named("VLLM", of=[host])]
    assert len(processes) == 3
    assert {os.getsid(process.pid) for process in processes} == {host}
    assert os.getsid(0) != host
