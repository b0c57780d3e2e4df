"""Limits that a file as a whole must keep before any of its lines is looked at: none by default, OpenAI's if asked."""

from __future__ import annotations

from dataclasses import dataclass

from engine.protocol import EMBEDDINGS
from store.records import LineError

STRICT_SETTING = "[server] strict_openai is on"


@dataclass(frozen=True, slots=True)
class FileLimits:
    """None is no limit. `one_model`: every line names the same one."""

    lines_max: int | None = None
    embedding_inputs_max: int | None = None
    one_model: bool = False


NONE = FileLimits()
OPENAI = FileLimits(lines_max=50_000, embedding_inputs_max=50_000, one_model=True)


def file_problem(limits: FileLimits, *, endpoint: str, lines: int, sub_requests: int) -> LineError | None:
    """`sub_requests` counts every input of every line."""
    if limits.lines_max is not None and lines > limits.lines_max:
        return LineError(
            "too_many_requests",
            f"The file has {lines:,} requests; at most {limits.lines_max:,} are allowed ({STRICT_SETTING}).",
        )
    inputs_max = limits.embedding_inputs_max
    if inputs_max is not None and endpoint.endswith(EMBEDDINGS.removeprefix("/v1")) and sub_requests > inputs_max:
        return LineError(
            "too_many_inputs",
            f"The file has {sub_requests:,} embedding inputs over all its requests; at most {inputs_max:,} are allowed "
            f"({STRICT_SETTING}).",
        )
    return None
