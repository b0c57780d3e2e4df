"""Where the example inputs stand, and how a line is made to fit another model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.form import CouldNotMeasure

HERE = Path(__file__).resolve().parent


def folder() -> Path:
    """`examples/` of the checkout, or the copy inside an installed package."""
    for place in (HERE / "examples", HERE.parent / "examples"):
        if place.is_dir():
            return place
    raise CouldNotMeasure("the example inputs are missing: reinstall nightbatch, or give a file with --input")


def find(pattern: str) -> Path:
    """The one example file that matches (`*banking77*.jsonl`); the largest when several do."""
    found = sorted(folder().rglob(pattern), key=lambda path: path.stat().st_size, reverse=True)
    if not found:
        raise CouldNotMeasure(f"no example file matches {pattern}: give a file with --input")
    return found[0]


def read_lines(path: Path) -> list[bytes]:
    lines = [line for line in path.read_bytes().split(b"\n") if line.strip()]
    if not lines:
        raise CouldNotMeasure(f"{path.name} holds no lines")
    return lines


def with_model(lines: Sequence[bytes], model: str, *, count: int) -> Iterator[bytes]:
    """The first `count` lines for `model`; a shorter file goes round again, with fresh custom_ids.

    Repeating a line makes its whole prompt a prefix-cache hit, in every arm alike.
    """
    for number in range(count):
        try:
            line = json.loads(lines[number % len(lines)])
            line["body"]["model"] = model
        except (ValueError, KeyError, TypeError) as error:
            raise CouldNotMeasure(f"line {number % len(lines) + 1} of the input is no batch line: {error!r}") from error
        line["custom_id"] = f"line-{number}"
        yield json.dumps(line, ensure_ascii=False).encode()


def write_input(path: Path, lines: Sequence[bytes], model: str, *, count: int) -> Path:
    path.write_bytes(b"".join(line + b"\n" for line in with_model(lines, model, count=count)))
    return path
