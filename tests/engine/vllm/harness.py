"""Real vLLM under the conformance suite: both default models, started once for the whole session."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import psutil

from engine.machine import has_cuda_build, read_cards, read_cores, read_cpu_memory
from engine.vllm import VllmEngine
from engine.vllm.planning import Wanted, plan
from tests.engine.conformance.harness import EngineUnderTest

CHAT_MODEL = "smollm2-135m-instruct"
EMBEDDING_MODEL = "all-minilm-l6-v2"
CHAT_ARGUMENTS = {"max_model_len": 4096}


def default_engines(folder: Path) -> tuple[VllmEngine, VllmEngine]:
    """Planned as the server plans them."""
    wanted = [
        Wanted("chat", CHAT_MODEL, CHAT_MODEL, engine_args=CHAT_ARGUMENTS),
        Wanted("embed", EMBEDDING_MODEL, EMBEDDING_MODEL),
    ]
    planned = plan(wanted, cpu=read_cpu_memory(), cards=read_cards(), cores=read_cores(), cuda=has_cuda_build())
    chat, embedding = (VllmEngine(spec, folder=folder) for spec in planned.specs)
    return chat, embedding


class VllmUnderTest(EngineUnderTest):
    chat_model = CHAT_MODEL
    embedding_model = EMBEDDING_MODEL
    seconds_to_start = 240.0
    long_tokens = 3_500
    calls_tools = False  # without --tool-call-parser vLLM refuses tools that must be called

    def __init__(self, chat: VllmEngine, embedding: VllmEngine) -> None:
        self.engine = chat
        self.embedding_engine = embedding

    async def start(self) -> None:
        """Side by side, as the server starts them."""
        await asyncio.gather(self.engine.start(), self.embedding_engine.start())

    async def kill(self) -> None:
        """The part that computes, as an out-of-memory kill would."""
        (core,) = processes_named("EngineCore", of=host_pids("chat"))
        core.kill()

    async def restart(self) -> None:
        await self.until(lambda: self.engine.status().state != "ready", 30.0)
        await self.engine.start()


def host_pids(engine: str) -> Sequence[int]:
    """This process's hosts of an engine, by the mark in their environment."""
    found = []
    for process in psutil.Process().children():
        try:
            if process.environ().get("NIGHTBATCH_ENGINE", "").endswith(f":{engine}"):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def processes_named(part: str, *, of: Sequence[int]) -> list[psutil.Process]:
    return [child for pid in of for child in psutil.Process(pid).children(recursive=True) if part in child.name()]
