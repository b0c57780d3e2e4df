"""The root cause of a failed start, found in what the engine's processes printed."""

from __future__ import annotations

import re

LINE_CHARS_MAX = 400
LOG_TAIL_BYTES = 256 * 1024

_GENERIC = (
    "Engine core initialization failed",
    "WorkerProc initialization failed",
    "Engine core proc",
    "EngineCore encountered",
    "EngineDeadError",
    "Executor failed",
    "cancelled",
    "the engine died",
)
"""What a parent says when a child has failed: true, and no help."""

_PREFIX = re.compile(r"^\s*(\([^)]*pid=\d+[^)]*\)\s*)*((ERROR|CRITICAL) [\d-]+ [\d:.]+ \[[^\]]*\]\s?)?")
_NAME = r"(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Refused|Exit|Died)"
_ERROR = re.compile(rf"^(?P<name>{_NAME})(?:: (?P<message>.*))?$")
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def one_line(text: str) -> str:
    """A sentence for a log line or a status."""
    joined = " ".join(part.strip() for part in text.splitlines() if part.strip())
    return joined if len(joined) <= LINE_CHARS_MAX else joined[: LINE_CHARS_MAX - 1] + "…"


def is_generic(line: str) -> bool:
    return any(mark in line for mark in _GENERIC)


def root_cause(log: str) -> str | None:
    """The last exception that is not merely a parent's report of a child's death; None when the log holds none.

    Within one traceback chain the last exception is the one that was given a message for people; a later traceback of
    another process is a consequence of the first, so the first group of lines that names one wins.
    """
    lines = [_PREFIX.sub("", _ANSI.sub("", line)) for line in log.splitlines()]
    for index, line in enumerate(lines):
        found = _ERROR.match(line)
        if found is None or is_generic(line):
            continue
        message = found["message"] or ""
        if "validation error" in message:
            message = _pydantic_message(lines[index + 1 : index + 6]) or message
        return one_line(f"{found['name'].rsplit('.', 1)[-1]}: {message}" if message else found["name"])
    return None


def _pydantic_message(following: list[str]) -> str | None:
    """`1 validation error for ModelConfig` is followed by the finding on the next lines."""
    for line in following:
        text = line.strip()
        if text.startswith(("Value error, ", "Assertion failed, ")):
            return text.split(", ", 1)[1].split(" [type=", 1)[0]
    return None
