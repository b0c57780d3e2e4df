"""Online first on real weights: what comes out is what vLLM's own order gives, whoever sat out which step."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from engine.machine import has_cuda_build, read_cards, read_cores, read_cpu_memory
from engine.protocol import BATCH_PRIORITY, CHAT_COMPLETIONS, ONLINE_PRIORITY, EngineRequest
from engine.vllm import VllmEngine
from engine.vllm.online_first.channel import Channel, Report
from engine.vllm.online_first.policy import Mode, Orders
from engine.vllm.planning import Wanted, plan
from tests.engine.vllm.harness import CHAT_MODEL

pytestmark = pytest.mark.real_engine

SUBJECTS = ("a river", "the moon", "a clock", "rain", "a bakery", "the number seven", "a bridge", "an old map")
FLOAT32 = {"dtype": "float32", "max_model_len": 1024, "max_num_seqs": 16, "max_num_batched_tokens": 256}


def request(name: str, text: str, *, tokens: int, priority: int) -> EngineRequest:
    body = {
        "model": CHAT_MODEL,
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": tokens,
        "ignore_eos": True,
    }
    return EngineRequest(name, CHAT_MODEL, CHAT_COMPLETIONS, json.dumps(body).encode(), priority=priority)


async def texts(engine: VllmEngine, run: str) -> list[str]:
    """14 batch requests, and beside them online ones, one after the other."""
    batch = [
        asyncio.create_task(
            engine.generate(
                request(
                    f"{run}-b{no}",
                    f"Write about {SUBJECTS[no % 8]}, part {no}.",
                    tokens=40 + 4 * no,
                    priority=BATCH_PRIORITY,
                )
            )
        )
        for no in range(14)
    ]
    online = []
    for no in range(4):
        asked = request(f"{run}-o{no}", f"In one sentence: {SUBJECTS[no]}?", tokens=12, priority=ONLINE_PRIORITY)
        online.append(await engine.generate(asked))
    results = [*await asyncio.gather(*batch), *online]
    assert all(result.ok for result in results)
    return [json.loads(result.body)["choices"][0]["message"]["content"] for result in results]


async def test_greedy_outputs_are_vllms_own_token_by_token(tmp_path: Path) -> None:
    """In float32, where a token does not depend on what else is in its step."""
    wanted = [Wanted("first", CHAT_MODEL, CHAT_MODEL, engine_args=FLOAT32, kv_cache_bytes=2**28, online_first=True)]
    planned = plan(wanted, cpu=read_cpu_memory(), cards=read_cards(), cores=read_cores(), cuda=has_cuda_build())
    engine = VllmEngine(planned.specs[0], folder=tmp_path)
    await engine.start()
    try:
        channel = Channel.open(tmp_path / "first.channel")
        channel.give(Orders(mode=Mode.PRIORITY))
        stock = await texts(engine, "stock")
        alone = channel.reported(Report())
        channel.give(Orders(beside_untrusted=3, beside_max=3))
        ours = await texts(engine, "ours")
        report = channel.reported(Report())
        channel.close()
    finally:
        await engine.stop()
    assert ours == stock
    assert alone.steps_beside == 0
    assert report.steps_beside > 40
    assert report.relative_error < 1.0
