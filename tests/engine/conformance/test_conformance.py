"""The suite over the engines that need no weights. Real vLLM and our own server have their fixtures elsewhere."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator

import pytest

from engine.backoff import BackoffPolicy
from engine.protocol import EngineState
from engine.remote import RemoteEngine
from engine.simulated import PROFILES, SimulatedEngine
from engine.supervisor import Supervised
from tests.engine.conformance.front import ABORT, FAULTS, OVERLOAD, TIME_SCALE
from tests.engine.conformance.fronts import FrontProcess
from tests.engine.conformance.harness import EngineUnderTest
from tests.engine.conformance.suite import TESTS, Test

PROFILE = PROFILES["cpu-135m"]
BACKOFF = BackoffPolicy(first_seconds=0.01, longest_seconds=0.02)
RUNNING = re.compile(r"simulated_requests_(?:running|waiting)\{[^}]*\} (\d+)")


class OnSimulation(EngineUnderTest):
    chat_model = "simulated-cpu-135m"
    embedding_model = "simulated-cpu-135m-embed"

    def __init__(self) -> None:
        self.late_rejection = {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"type": "string", "pattern": "("}},
            }
        }
        self.aborted = {"user": ABORT}
        self.overloaded = {"user": OVERLOAD}


class SimulatedUnderTest(OnSimulation):
    def __init__(self, *, supervised: bool) -> None:
        super().__init__()
        self.simulated = SimulatedEngine("sim", PROFILE, faults=FAULTS, time_scale=TIME_SCALE)
        self.supervised = supervised
        engine = Supervised(self.simulated, BACKOFF) if supervised else self.simulated
        self.engine = self.embedding_engine = engine

    async def kill(self) -> None:
        self.simulated.kill()

    async def restart(self) -> None:
        if not self.supervised:
            await self.engine.start()
        await self.until(lambda: self.engine.status().state is EngineState.READY)


class RemoteUnderTest(OnSimulation):
    def __init__(self, front: FrontProcess, *, supervised: bool) -> None:
        super().__init__()
        self.front = front
        self.supervised = supervised
        remote = RemoteEngine("upstream", front.url)
        self.engine = self.embedding_engine = Supervised(remote, BACKOFF) if supervised else remote

    async def kill(self) -> None:
        await asyncio.to_thread(self.front.kill)

    async def restart(self) -> None:
        await self.until(lambda: self.engine.status().state is not EngineState.READY)
        await asyncio.to_thread(self.front.start)
        if not self.supervised:
            await self.engine.start()
        await self.until(lambda: self.engine.status().state is EngineState.READY)

    async def running(self) -> int:
        return sum(int(number) for number in RUNNING.findall(await self.engine.metrics()))


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FrontProcess]:
    process = FrontProcess(tmp_path_factory.mktemp("front"))
    process.start()
    yield process
    process.kill()


@pytest.fixture(params=["simulated", "supervised-simulated", "remote", "supervised-remote"])
async def under_test(request: pytest.FixtureRequest, front: FrontProcess) -> AsyncIterator[EngineUnderTest]:
    supervised = request.param.startswith("supervised")
    harness: EngineUnderTest
    if request.param.endswith("remote"):
        harness = RemoteUnderTest(front, supervised=supervised)
    else:
        harness = SimulatedUnderTest(supervised=supervised)
    await harness.start()
    yield harness
    await harness.close()


@pytest.mark.parametrize("test", TESTS, ids=lambda test: test.__name__)
async def test_every_engine_does_what_an_engine_must(test: Test, under_test: EngineUnderTest) -> None:
    await test(under_test)
