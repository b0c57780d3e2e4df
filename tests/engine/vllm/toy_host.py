"""A host with everything but vLLM: the real process, frames and watches around answers that a test can steer.

A chat whose first message is `sleep 5` takes that long, `die` ends the engine, `hang` blocks the whole host, and so on.
The model `sleepless` cannot sleep and `drowsy` does not wake, whatever the server wants.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from engine.protocol import CHAT_COMPLETIONS
from engine.vllm.answering import EngineDied
from engine.vllm.frames import Launch, Pulse, Ready
from engine.vllm.host import run_host

STEP_SECONDS = 0.01


class ToyServing:
    def __init__(self, source: str = "") -> None:
        self.source = source
        self.slept = 0
        self.dead = False
        self.running = 0
        self.steps = 0

    async def answer(self, endpoint: str, body: bytes) -> tuple[int, bytes]:
        fields = json.loads(body)
        word, _, number = fields["messages"][0]["content"].partition(" ")
        self.running += 1
        try:
            return await self._do(word, float(number or 0), fields)
        finally:
            self.running -= 1

    async def _do(self, word: str, number: float, fields: dict[str, Any]) -> tuple[int, bytes]:
        match word:
            case "sleep":
                await self._step_for(number)
            case "still":
                await asyncio.sleep(number)
            case "die":
                self.dead = True
                raise EngineDied
            case "crash":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                time.sleep(number)  # noqa: ASYNC251 (a blocked loop is what is tried)
            case "status":
                return int(number), json.dumps({"error": {"message": "no"}}).encode()
            case "bug":
                raise RuntimeError("a bug in the front")
            case "slept":
                return 200, json.dumps(_answer(fields, "stop") | {"slept": self.slept}).encode()
        return 200, json.dumps(_answer(fields, "abort" if word == "abort" else "stop")).encode()

    async def _step_for(self, seconds: float) -> None:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            await asyncio.sleep(STEP_SECONDS)
            self.steps += 1

    async def stream(self, endpoint: str, body: bytes) -> tuple[int, bytes] | AsyncIterator[str]:
        fields = json.loads(body)
        word, _, number = fields["messages"][0]["content"].partition(" ")
        if word == "status":
            return int(number), b'{"error": {"message": "no"}}'
        return self._events(int(float(number or 3)))

    async def _events(self, count: int) -> AsyncIterator[str]:
        self.running += 1
        try:
            for number in range(count):
                await asyncio.sleep(STEP_SECONDS)
                yield f'data: {{"n": {number}}}\n\n'
            yield "data: [DONE]\n\n"
        finally:
            self.running -= 1

    async def sleep(self, level: int) -> None:
        if self.source == "sleepless" or self.running:
            raise RuntimeError(f"no sleep with {self.running} requests running")
        self.slept = level

    async def wake(self) -> None:
        if self.source == "drowsy":
            raise RuntimeError("no memory to wake up in")

    def pulse(self) -> Pulse:
        return Pulse(self.running, 0, 0.0, 10.0, 10.0, self.steps)

    def metrics(self) -> str:
        return "toy_requests 1\n"


def _answer(fields: dict[str, Any], finish_reason: str) -> dict[str, Any]:
    return {
        "id": "toy",
        "model": fields["model"],
        "priority": fields["priority"],
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
    }


@asynccontextmanager
async def open_toy(launch: Launch) -> AsyncIterator[tuple[ToyServing, Ready]]:
    match source := launch.source.rpartition("/")[2]:
        case "refused":
            raise ValueError("the weights are for another model")
        case "child":
            print("(Worker pid=5) torch.OutOfMemoryError: no room for 2 GiB", flush=True)
            raise RuntimeError("Engine core initialization failed. See root cause above.")
        case "silent":
            os._exit(3)
        case "slow":
            time.sleep(600)  # noqa: ASYNC251 (as vLLM blocks the loop while it builds)
    yield ToyServing(source), Ready("toy", [CHAT_COMPLETIONS], 1000, 8, 64_000, None, "cpu", 0.1)


if __name__ == "__main__":
    run_host(open_toy)
