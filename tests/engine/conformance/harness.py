"""What the conformance suite needs to know of an engine, and to do to it."""

from __future__ import annotations

import asyncio
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import count
from typing import Any

from engine.protocol import CHAT_COMPLETIONS, GENERATE_ENDPOINTS, Engine, EngineRequest, EngineState

_numbers = count()


class EngineUnderTest(ABC):
    """`engine` serves `chat_model`; `embedding_engine` (often the same one) serves `embedding_model`.

    The bodies are chat bodies that meet a certain fate on this engine; None: it cannot be brought about here.
    """

    engine: Engine
    embedding_engine: Engine
    chat_model: str
    embedding_model: str
    seconds_to_start: float = 10.0
    long_tokens: int = 4_000
    calls_tools: bool = True
    late_rejection: dict[str, Any] | None = None
    aborted: dict[str, Any] | None = None
    overloaded: dict[str, Any] | None = None

    @abstractmethod
    async def kill(self) -> None:
        """End what is behind the engine, as a crash would."""

    @abstractmethod
    async def restart(self) -> None:
        """Bring it back, and the engine with it, until it is ready."""

    async def running(self) -> int:
        """How many sequences the engine itself has in hand."""
        load = self.engine.load()
        return load.running + load.waiting

    async def start(self) -> None:
        for engine in {id(engine): engine for engine in (self.engine, self.embedding_engine)}.values():
            await engine.start()
            await self.until(lambda engine=engine: engine.status().state is EngineState.READY, self.seconds_to_start)

    async def close(self) -> None:
        for engine in (self.engine, self.embedding_engine):
            await engine.stop()

    @staticmethod
    async def until(condition: Callable[[], bool], seconds_max: float = 10.0) -> None:
        deadline = time.monotonic() + seconds_max
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come true in time"
            await asyncio.sleep(0.005)

    async def until_running(self, sequences: int, seconds_max: float = 10.0) -> None:
        deadline = time.monotonic() + seconds_max
        while (now := await self.running()) != sequences:
            assert time.monotonic() < deadline, f"{now} sequences on the engine, not {sequences}"
            await asyncio.sleep(0.005)

    def chat(self, text: str = "Say something.", **fields: Any) -> EngineRequest:
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": 8, "temperature": 0, **fields}
        return self.request(CHAT_COMPLETIONS, body)

    def long_chat(self, text: str = "Tell me everything.") -> EngineRequest:
        """A request that stays in flight until somebody ends it."""
        return self.chat(text, max_tokens=self.long_tokens, ignore_eos=True)

    def request(self, endpoint: str, body: dict[str, Any] | bytes, model: str | None = None) -> EngineRequest:
        if model is None:
            model = self.chat_model if endpoint in GENERATE_ENDPOINTS else self.embedding_model
        encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
        fan_out = body.get("n", 1) if isinstance(body, dict) else 1
        return EngineRequest(f"conformance-{next(_numbers)}", model, endpoint, encoded, sub_requests=fan_out)
