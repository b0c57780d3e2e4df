"""The people at the keyboard: sends streamed chats at given times and notes when each token came. A process of its own.

It runs niced, so that it takes little from what it measures, and tells how much CPU it used. On a busy machine it needs
seconds to start: it says when it is ready, is told then from when on it may begin, and says when it does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

NICE = 5
REQUEST_SECONDS_MAX = 180
READY = "ready"
START_SECONDS = 0.1
"""From the word to the first request that may have to be sent."""

EVENT = b"data: "
DONE = b"[DONE]"


@dataclass(frozen=True, slots=True)
class Sent:
    """One request as its client saw it, in Unix seconds. `error` is empty when it was answered to its end."""

    sent_at: float
    tokens_at: list[float]
    ended_at: float
    error: str = ""


async def send(session: aiohttp.ClientSession, url: str, body: dict[str, Any], at: float) -> Sent:
    await asyncio.sleep(max(0.0, at - time.time()))
    sent_at, tokens_at = time.time(), []
    try:
        async with session.post(f"{url}/chat/completions", json=body) as answer:
            if answer.status != 200:
                return Sent(sent_at, [], time.time(), f"{answer.status}: {(await answer.text())[:300]}")
            ended = False
            async for line in answer.content:
                if line.startswith(EVENT):
                    event = line[len(EVENT) :].strip()
                    ended = event == DONE
                    if not ended and says_something(event):
                        tokens_at.append(time.time())
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        return Sent(sent_at, tokens_at, time.time(), f"{type(error).__name__}: {error}")
    return Sent(sent_at, tokens_at, time.time(), "" if ended and tokens_at else "the stream broke off")


def says_something(event: bytes) -> bool:
    """The first chunk only names the role, the last one why it ended."""
    choices = msgspec.json.decode(event).get("choices") or []
    return any((choice.get("delta") or {}).get("content") for choice in choices)


async def run(plan: dict[str, Any], start_at: float) -> list[Sent]:
    timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS_MAX)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        return await asyncio.gather(
            *(send(session, plan["url"], one["body"], start_at + one["after_seconds"]) for one in plan["requests"])
        )


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.online_load", description=__doc__)
    parser.add_argument("--plan", required=True, type=Path)
    parser.add_argument("--output", required=True, type=Path)
    asked = parser.parse_args(argv)
    os.nice(NICE)
    plan = json.loads(asked.plan.read_bytes())
    print(READY, flush=True)
    start_at = max(float(sys.stdin.readline()), time.time() + START_SECONDS)
    print(start_at, flush=True)
    before = time.process_time()
    sent = asyncio.run(run(plan, start_at))
    report = {
        "cpu_seconds": time.process_time() - before,
        "requests": [asdict(one) for one in sent],
    }
    asked.output.write_text(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
