"""Short texts to embed, as many as wanted and no two alike: sentences of GSM8K questions, alone and then in pairs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from benchmarks import examples
from benchmarks.backlog import maths_texts
from benchmarks.form import CouldNotMeasure

_SENTENCE_END = re.compile(r"(?<=[.?!])\s+")


def sentences() -> list[str]:
    """Each once, in the order of the questions."""
    return list(dict.fromkeys(sentence for text in maths_texts() for sentence in _SENTENCE_END.split(text) if sentence))


def short_texts(count: int) -> list[str]:
    """The first `count` of all sentences, then of all pairs of neighbours, then of pairs one further apart, ..."""
    found = list(islice(_all(sentences()), count))
    if len(found) < count:
        raise CouldNotMeasure(f"there are no more than {len(found)} different texts")
    return found


def _all(alone: Sequence[str]) -> Iterator[str]:
    yield from alone
    for apart in range(1, len(alone)):
        for number, sentence in enumerate(alone):
            yield f"{sentence} {alone[(number + apart) % len(alone)]}"


def texts_of(path: Path, count: int) -> list[str]:
    """The inputs of a batch file of embeddings, from the start again where it has fewer."""
    inputs: list[str] = []
    for number, line in enumerate(examples.read_lines(path), 1):
        try:
            given = json.loads(line)["body"]["input"]
        except (ValueError, KeyError, TypeError) as error:
            raise CouldNotMeasure(f"line {number} of {path.name} is no embeddings request: {error!r}") from error
        inputs += [given] if isinstance(given, str) else [text for text in given if isinstance(text, str)]
    if not inputs:
        raise CouldNotMeasure(f"{path.name} asks for no embedding of a text")
    return [inputs[number % len(inputs)] for number in range(count)]


def write_lines(path: Path, texts: Sequence[str], *, model: str, inputs: int, fields: Mapping[str, object]) -> None:
    """A batch file with so many texts in each line; one text alone is no array. `fields` are more of each body."""
    with path.open("wb") as file:
        for start in range(0, len(texts), inputs):
            given = texts[start] if inputs == 1 else list(texts[start : start + inputs])
            body = {"model": model, "input": given, **fields}
            line = {"custom_id": f"texts-{start}", "method": "POST", "url": "/v1/embeddings", "body": body}
            file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
