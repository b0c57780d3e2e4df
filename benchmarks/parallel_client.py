"""What people do without a batch API: an asyncio client that keeps N requests in flight. A process of its own.

Writes a JSON list, an object for each job: lines sent, lines answered well, and seconds from the first send to the last
answer. Without `--sizes` the whole file is one job, with them it is cut into jobs that one client sends one by one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import openai

REQUEST_SECONDS_MAX = 3_600


async def send(client: openai.AsyncOpenAI, line: dict[str, Any]) -> None:
    body = dict(line["body"])
    if line["url"].endswith("/embeddings"):
        await client.embeddings.create(model=body.pop("model"), input=body.pop("input"), extra_body=body)
    elif line["url"].endswith("/chat/completions"):
        await client.chat.completions.create(model=body.pop("model"), messages=body.pop("messages"), extra_body=body)
    else:
        await client.completions.create(model=body.pop("model"), prompt=body.pop("prompt"), extra_body=body)


async def send_all(client: openai.AsyncOpenAI, lines: Sequence[dict[str, Any]], inflight_max: int) -> dict[str, float]:
    slots = asyncio.Semaphore(inflight_max)
    failures: list[str] = []

    async def one(line: dict[str, Any]) -> None:
        async with slots:
            try:
                await send(client, line)
            except openai.OpenAIError as error:
                failures.append(str(error))

    began = time.perf_counter()
    await asyncio.gather(*(one(line) for line in lines))
    seconds = time.perf_counter() - began
    for failure in failures[:3]:
        print(failure, file=sys.stderr)
    return {"lines": len(lines), "succeeded": len(lines) - len(failures), "seconds": seconds}


async def send_jobs(
    url: str, lines: Sequence[dict[str, Any]], sizes: Sequence[int], inflight_max: int
) -> list[dict[str, float]]:
    rest = iter(lines)
    async with openai.AsyncOpenAI(
        base_url=url, api_key="not-needed", max_retries=0, timeout=REQUEST_SECONDS_MAX
    ) as client:
        return [await send_all(client, list(islice(rest, size)), inflight_max) for size in sizes]


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parallel_client", description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--input", required=True, type=Path)
    parser.add_argument("--sizes", type=lambda text: [int(size) for size in text.split(",")])
    parser.add_argument("--inflight", required=True, type=int)
    parser.add_argument("--output", required=True, type=Path)
    asked = parser.parse_args(argv)
    lines = [json.loads(line) for line in asked.input.read_bytes().splitlines()]
    jobs = asyncio.run(send_jobs(asked.url, lines, asked.sizes or [len(lines)], asked.inflight))
    asked.output.write_text(json.dumps(jobs))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
