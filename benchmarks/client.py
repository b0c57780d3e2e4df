"""The official `openai` package, as any client uses it: upload, create, poll."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal, get_args

import openai
from openai.types import Batch

from benchmarks.form import CouldNotMeasure

POLL_SECONDS = 0.01
WATCH_SHARE = 0.05
WATCH_SECONDS_MIN = 0.02
WATCH_SECONDS_MAX = 1.0
Endpoint = Literal["/v1/chat/completions", "/v1/embeddings", "/v1/completions"]
ENDPOINTS: tuple[Endpoint, ...] = get_args(Endpoint)
TERMINAL = frozenset({"completed", "failed", "expired", "cancelled"})


def connect(url: str) -> openai.OpenAI:
    """Retries are off: a repeated upload would be timed twice without anybody noticing."""
    return openai.OpenAI(base_url=url, api_key="not-needed", max_retries=0, timeout=600)


def first_model(client: openai.OpenAI) -> str:
    models = [model.id for model in client.models.list().data]
    if not models:
        raise CouldNotMeasure("the server lists no model")
    return models[0]


def endpoint_of(line: bytes) -> Endpoint:
    """Of a line of batch input."""
    for endpoint in ENDPOINTS:
        if f'"{endpoint}"'.encode() in line:
            return endpoint
    raise CouldNotMeasure(f"the input names none of the endpoints {', '.join(ENDPOINTS)}")


def upload(client: openai.OpenAI, path: Path) -> str:
    """Streams the file; the answer comes when bytes and index are durable."""
    with path.open("rb") as file:
        return client.files.create(file=file, purpose="batch").id


def create(client: openai.OpenAI, file_id: str, endpoint: Endpoint = "/v1/chat/completions") -> Batch:
    return client.batches.create(input_file_id=file_id, endpoint=endpoint, completion_window="24h")


def wait_until_not(
    client: openai.OpenAI, batch: Batch, status: str, *, seconds_max: float, poll_seconds: float = POLL_SECONDS
) -> Batch:
    """Poll until the batch has left `status`; a batch that failed could not be measured."""
    deadline = time.monotonic() + seconds_max
    while batch.status == status:
        if time.monotonic() > deadline:
            raise CouldNotMeasure(f"the batch was still {status} after {seconds_max:.0f} s")
        time.sleep(poll_seconds)
        batch = client.batches.retrieve(batch.id)
    if batch.status == "failed":
        first = batch.errors.data[0] if batch.errors and batch.errors.data else None
        raise CouldNotMeasure(f"the batch failed: {first.message if first else 'no error was given'}")
    return batch


def wait_until_done(
    client: openai.OpenAI, batch: Batch, *, seconds_max: float, poll_seconds: float = POLL_SECONDS
) -> Batch:
    deadline = time.monotonic() + seconds_max
    while batch.status not in TERMINAL:
        batch = wait_until_not(
            client, batch, batch.status, seconds_max=deadline - time.monotonic(), poll_seconds=poll_seconds
        )
    return completed(batch)


def watch(client: openai.OpenAI, batch: Batch, *, seconds_max: float) -> Batch:
    """As a patient client: it asks again after a twentieth of what it has waited, so that neither the asking nor the
    moment at which it sees the end takes much of the whole."""
    began = time.monotonic()
    while batch.status not in TERMINAL:
        waited = time.monotonic() - began
        if waited > seconds_max:
            raise CouldNotMeasure(f"the batch was still {batch.status} after {seconds_max:.0f} s")
        time.sleep(min(max(WATCH_SHARE * waited, WATCH_SECONDS_MIN), WATCH_SECONDS_MAX))
        batch = client.batches.retrieve(batch.id)
    return completed(batch)


def completed(batch: Batch) -> Batch:
    """The batch itself, when every line of it succeeded: an errored line would make an arm look fast."""
    if batch.status != "completed":
        raise CouldNotMeasure(f"the batch ended as {batch.status}")
    counts = batch.request_counts
    if counts is None or counts.completed != counts.total:
        raise CouldNotMeasure(f"not every line succeeded: {counts}")
    return batch


def download(client: openai.OpenAI, batch: Batch) -> bytes:
    if batch.output_file_id is None:
        raise CouldNotMeasure(f"batch {batch.id} has no output file")
    return client.files.content(batch.output_file_id).read()
