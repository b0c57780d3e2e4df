"""Embedding work for the second engine, for as long as a window lasts."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openai

from benchmarks import client
from benchmarks.backlog import maths_texts
from benchmarks.form import CouldNotMeasure

LINES, INPUTS = 64, 16
TEXTS_PER_S_MAX = 600
"""More than a small machine embeds: a window must not run out of work."""

END_SECONDS_MAX = 60.0
POLL_SECONDS = 0.1


class EmbeddingsBacklog:
    """One file, uploaded once; each window gets batches of it, and what is left of them is cancelled at its end."""

    def __init__(self, api: openai.OpenAI, model: str, folder: Path) -> None:
        self._api = api
        path = folder / "embeddings.jsonl"
        path.write_bytes(b"".join(_lines(model)))
        self._file_id = client.upload(api, path)

    @contextmanager
    def lasting(self, seconds: float) -> Iterator[None]:
        count = math.ceil(seconds * TEXTS_PER_S_MAX / (LINES * INPUTS))
        batches = [client.create(self._api, self._file_id, "/v1/embeddings") for _ in range(count)]
        try:
            yield
        finally:
            self._end(batches)

    def _end(self, batches: list[openai.types.Batch]) -> None:
        for batch in batches:
            try:
                self._api.batches.cancel(batch.id)
            except openai.ConflictError:
                continue  # it has ended
        deadline = time.monotonic() + END_SECONDS_MAX
        while any(self._api.batches.retrieve(batch.id).status not in client.TERMINAL for batch in batches):
            if time.monotonic() > deadline:
                raise CouldNotMeasure(f"embedding batches were not cancelled after {END_SECONDS_MAX:.0f} s")
            time.sleep(POLL_SECONDS)


def _lines(model: str) -> Iterator[bytes]:
    texts = maths_texts()
    for number in range(LINES):
        inputs = [texts[(number * INPUTS + position) % len(texts)] for position in range(INPUTS)]
        line = {
            "custom_id": f"texts-{number}",
            "method": "POST",
            "url": "/v1/embeddings",
            "body": {"model": model, "input": inputs},
        }
        yield json.dumps(line, ensure_ascii=False).encode() + b"\n"
