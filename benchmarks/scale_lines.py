"""Batch input of any size for the scale benchmark: short chats, with all, none, or some of their beginnings alike."""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

LINE_BYTES = 512
LINES_PER_CHUNK = 2_000
NUMBER = "NUMBER__"
"""Stands in the template where the line's number goes, in as many characters."""

RULES = "You sort messages of a bank's customers. Answer with one word, the label that fits best. "
TEXT = "It was said to be here within a week, and what is going on with it nobody can tell me. "


class Beginnings(StrEnum):
    """`IDENTICAL`: every prompt begins with the same 256 bytes and more. `DISTINCT`: no two begin alike."""

    IDENTICAL = "identical"
    DISTINCT = "distinct"


def template(model: str, beginnings: Beginnings, line_bytes: int = LINE_BYTES) -> str:
    """A line of exactly `line_bytes` characters, all of them ASCII."""

    def whole(fill: int) -> str:
        text = (RULES + TEXT * (fill // len(TEXT) + 1))[: fill + len(RULES)]
        said = f"Message {NUMBER}: {text}" if beginnings is Beginnings.DISTINCT else f"{text} Message {NUMBER}."
        body = {"model": model, "max_tokens": 8, "messages": [{"role": "user", "content": said}]}
        return json.dumps(
            {"custom_id": f"line-{NUMBER}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        )

    missing = line_bytes - 1 - len(whole(0))
    if missing < 0:
        raise ValueError(f"a line for {model} needs {line_bytes - missing} bytes, {line_bytes} were asked for")
    return whole(missing) + "\n"


def chunks(count: int, *, model: str, beginnings: Beginnings, line_bytes: int = LINE_BYTES) -> Iterator[bytes]:
    text = template(model, beginnings, line_bytes)
    for start in range(0, count, LINES_PER_CHUNK):
        stop = min(start + LINES_PER_CHUNK, count)
        yield "".join([text.replace(NUMBER, f"{number:08d}") for number in range(start, stop)]).encode()


def write(path: Path, count: int, *, model: str, beginnings: Beginnings) -> Path:
    with path.open("wb") as file:
        file.writelines(chunks(count, model=model, beginnings=beginnings))
    return path


def lines_in_order(path: Path) -> int:
    """How many result lines there are; -1 when a line of the input is missing, comes twice or out of its order."""
    number = -1
    with path.open("rb") as file:
        for number, line in enumerate(file):
            if b'"custom_id":"line-%08d"' % number not in line:
                return -1
    return number + 1
