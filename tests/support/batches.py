"""Inputs and outcomes of batches, for tests that compare one run with another."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import openai
from openai.types import Batch

TERMINAL = {"completed", "failed", "expired", "cancelled"}

SIMULATED = """
[[models]]
id = "sim"
engine = "simulated"
profile = "cpu-135m"
time_scale = {time_scale}

[scheduler]
shard_lines_max = {shard_lines_max}
lease_seconds = 20

[store]
disk_reserve_mib = 64
"""


def simulated(*, time_scale: float = 0.0, shard_lines_max: int = 64) -> str:
    return SIMULATED.format(time_scale=time_scale, shard_lines_max=shard_lines_max)


def chat_line(custom_id: str, text: str, *, model: str = "sim", **body: Any) -> bytes:
    request = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 24, **body}
    line = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": request}
    return json.dumps(line).encode()


def mixed_lines(count: int) -> list[bytes]:
    """Ordinary chats, some with two answers, some with a schema, and every fiftieth one too long to be answered."""
    schema = {"type": "object", "properties": {"label": {"enum": ["a", "b"]}}, "required": ["label"]}
    answer = {"type": "json_schema", "json_schema": {"name": "label", "schema": schema}}
    lines = []
    for number in range(count):
        body: dict[str, Any] = {}
        text = f"question {number} of many"
        if number % 50 == 49:
            text = "far too long " * 5_000
        elif number % 7 == 0:
            body["n"] = 2
        elif number % 5 == 0:
            body["response_format"] = answer
        lines.append(chat_line(f"line {number}\t✓", text, **body))
    return lines


def upload(client: openai.OpenAI, lines: Sequence[bytes]) -> str:
    return client.files.create(file=("input.jsonl", b"\n".join(lines) + b"\n"), purpose="batch").id


def create(client: openai.OpenAI, file_id: str, endpoint: str = "/v1/chat/completions") -> Batch:
    return client.batches.create(input_file_id=file_id, endpoint=endpoint, completion_window="24h")  # type: ignore[arg-type]


def wait_for(
    client: openai.OpenAI, batch_id: str, until: Callable[[Batch], bool] | None = None, seconds: float = 120.0
) -> Batch:
    """Poll as a client does; the default is to wait for a terminal status."""
    until = until or (lambda batch: batch.status in TERMINAL)
    deadline = time.monotonic() + seconds
    while True:
        batch = client.batches.retrieve(batch_id)
        if until(batch):
            return batch
        assert time.monotonic() < deadline, f"still {batch.status} after {seconds:.0f} s: {batch}"
        time.sleep(0.05)


@dataclass(frozen=True)
class Outcome:
    """What a batch came to, without what differs from run to run (ids and times)."""

    status: str
    output: list[dict[str, Any]]
    errors: list[dict[str, Any]]
    counts: tuple[int, int, int]
    usage: tuple[int, int]


def outcome(client: openai.OpenAI, batch: Batch) -> Outcome:
    assert batch.request_counts is not None
    assert batch.usage is not None
    counts = batch.request_counts
    return Outcome(
        batch.status,
        _lines(client, batch.output_file_id),
        _lines(client, batch.error_file_id),
        (counts.total, counts.completed, counts.failed),
        (batch.usage.input_tokens, batch.usage.output_tokens),
    )


def _lines(client: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    if file_id is None:
        return []
    lines = [json.loads(line) for line in client.files.content(file_id).read().splitlines()]
    ids = [line.pop("id") for line in lines]
    assert len(set(ids)) == len(ids), "an id of a result is there twice"
    for line in lines:
        if line["response"] is not None:
            line["response"].pop("request_id")
            line["response"]["body"].pop("id", None)
            line["response"]["body"].pop("created", None)
    return lines


def chat_and_embeddings(chat: str = "sim", embeddings: str = "sim-embed") -> str:
    """The configuration of a server with a chat model and an embedding model, both simulated."""
    pooling = f'\n[[models]]\nid = "{embeddings}"\nengine = "simulated"\nprofile = "cpu-135m"\nkind = "pooling"\n'
    return simulated().replace('id = "sim"', f'id = "{chat}"') + pooling
