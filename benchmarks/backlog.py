"""Batch work without end: small mixed batches of banking77 (JSON-schema answers), GSM8K (long answers) and documents of
1,500 tokens (long prompts), topped up between windows.

Many small batches rather than one: lines that begin alike run together, so a large file would be all of one kind for
minutes, and windows would not compare.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import openai

from benchmarks import client, examples
from benchmarks.form import CouldNotMeasure
from benchmarks.online_trace import DATA

BANKING, MATHS, DOCUMENTS = 20, 18, 2
"""Lines of each kind in a batch."""

LINES = BANKING + MATHS + DOCUMENTS

MATHS_TOKENS, DOCUMENT_TOKENS = 128, 64
DOCUMENT_CHARACTERS = 6_000
"""About 1,500 tokens of English for a vocabulary of 49,152 words."""

OPEN_BATCHES_MIN = 16
"""At the start of a window: at 10 lines a second this is more than a minute of work."""


def maths_texts() -> list[str]:
    path = DATA / "gsm8k" / "questions.jsonl"
    try:
        return [str(json.loads(line)["text"]) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError, KeyError) as error:
        raise CouldNotMeasure(f"the GSM8K questions cannot be read ({error}): reinstall nightbatch") from error


class Lines:
    """Lines of batches, one batch after another; which text comes when depends on the seed alone. `given` are batch
    lines of chats that are sent instead, in turn."""

    def __init__(self, model: str, given: Sequence[bytes] = (), *, seed: int = 0) -> None:
        self._model = model
        self._given = cycle([_chat_body(line) for line in given]) if given else None
        self._random = random.Random(seed)
        self._banking = [json.loads(line)["body"] for line in examples.read_lines(examples.find("*banking77*.jsonl"))]
        self._texts = maths_texts()
        self._made = 0

    def batch(self) -> bytes:
        self._made += 1
        if self._given is not None:
            return b"".join(self._line(number, body) for number, body in enumerate(islice(self._given, LINES)))
        bodies = [
            *(self._banking[self._random.randrange(len(self._banking))] for _ in range(BANKING)),
            *(self._maths() for _ in range(MATHS)),
            *(self._document() for _ in range(DOCUMENTS)),
        ]
        self._random.shuffle(bodies)
        return b"".join(self._line(number, body) for number, body in enumerate(bodies))

    def _line(self, number: int, body: dict[str, Any]) -> bytes:
        line = {
            "custom_id": f"{self._made}-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {**body, "model": self._model},
        }
        return json.dumps(line, ensure_ascii=False).encode() + b"\n"

    def _maths(self) -> dict[str, Any]:
        return _chat(self._random.choice(self._texts), MATHS_TOKENS)

    def _document(self) -> dict[str, Any]:
        """Stories in an order of its own, so that no two documents begin alike."""
        stories: list[str] = []
        while sum(map(len, stories)) < DOCUMENT_CHARACTERS:
            stories.append(self._random.choice(self._texts))
        text = " ".join(stories)[:DOCUMENT_CHARACTERS]
        return _chat(f"{text}\n\nName the people in these stories.", DOCUMENT_TOKENS)


def _chat_body(line: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(line)
        if parsed["url"] == "/v1/chat/completions":
            return dict(parsed["body"])
    except (ValueError, KeyError, TypeError) as error:
        raise CouldNotMeasure(f"the input has a line that is no batch line: {error!r}") from error
    raise CouldNotMeasure(f"the input has a line for {parsed['url']}: interference runs chats")


def _chat(text: str, tokens: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": tokens}


class Backlog:
    """Keeps enough batches open on a server."""

    def __init__(self, api: openai.OpenAI, model: str, folder: Path, given: Sequence[bytes] = ()) -> None:
        self._api = api
        self._lines = Lines(model, given)
        self._path = folder / "backlog.jsonl"
        self._open: set[str] = set()

    def top_up(self) -> None:
        self._open = {batch_id for batch_id in self._open if not self._has_ended(batch_id)}
        while len(self._open) < OPEN_BATCHES_MIN:
            self._path.write_bytes(self._lines.batch())
            self._open.add(client.create(self._api, client.upload(self._api, self._path)).id)

    def pause(self) -> None:
        """What is in flight goes back to its queue; the engine is idle within a step."""
        self._tell("pause")

    def resume(self) -> None:
        self._tell("resume")

    def _tell(self, word: str) -> None:
        for batch_id in self._open:
            try:
                self._api.post(f"/batches/{batch_id}/{word}", cast_to=object)
            except openai.ConflictError:
                continue  # it has ended

    def _has_ended(self, batch_id: str) -> bool:
        batch = self._api.batches.retrieve(batch_id)
        if batch.status == "failed":
            raise CouldNotMeasure(f"a batch of the backlog failed: {batch.errors}")
        return batch.status in client.TERMINAL
