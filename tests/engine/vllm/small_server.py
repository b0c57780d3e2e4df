"""A server reduced to one engine, in a process that a test may kill: `small_server.py FOLDER REQUESTS MAX_TOKENS`.

Says `inflight` when every request runs. SIGINT and SIGTERM drain and stop, as the real server does; then it prints what
became of the requests.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

from engine.protocol import CHAT_COMPLETIONS, EngineRequest, EngineResult
from engine.vllm import VllmEngine, VllmSpec

MODEL = "smollm2-135m-instruct"
KV_BYTES = 1024 * 1024 * 1024
DRAIN_SECONDS = 120.0


async def main(folder: Path, requests: int, tokens: int) -> None:
    engine = VllmEngine(VllmSpec("chat", MODEL, MODEL, kv_cache_bytes=KV_BYTES), folder=folder)
    await engine.start()
    asked = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, asked.set)
    body = {"messages": [{"role": "user", "content": "Tell me."}], "max_tokens": tokens, "ignore_eos": True}
    flying = [
        asyncio.create_task(
            engine.generate(EngineRequest(f"r{number}", MODEL, CHAT_COMPLETIONS, json.dumps(body).encode()))
        )
        for number in range(requests)
    ]
    while engine.load().running < requests:  # noqa: ASYNC110 (a load is looked at, it does not call)
        await asyncio.sleep(0.05)
    print("inflight", flush=True)
    await asked.wait()
    await engine.stop(DRAIN_SECONDS)
    outcomes = await asyncio.gather(*flying, return_exceptions=True)
    print(
        "complete", sum(isinstance(each, EngineResult) and each.usage.completion_tokens == tokens for each in outcomes)
    )


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
