"""Structured logs: one line of text on a terminal, one JSON object otherwise. Never prompt text."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TextIO

FIELDS = (
    "tenant",
    "batch",
    "file",
    "engine",
    "model",
    "shard",
    "line_no",
    "request_id",
    "method",
    "path",
    "status",
    "ms",
)
"""What a record may carry beside its message, given as `extra={...}`; anything else is not written."""


class JsonFormatter(logging.Formatter):
    """One object per record: `at` (RFC 3339, UTC), `level`, `logger`, `message`, then the fields that are set."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry.update(_fields(record))
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """`23:01:07 info  message  key=value ...`, for people at a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S")
        fields = "".join(f"  {name}={value}" for name, value in _fields(record).items())
        line = f"{at} {record.levelname.lower():<7} {record.getMessage()}{fields}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    values = record.__dict__
    return {name: values[name] for name in FIELDS if values.get(name) is not None}


def configure(level: str, form: str, stream: TextIO | None = None) -> None:
    """Send every record of this process to `stream` (standard error by default).

    `form` is `text`, `json` or `auto`: text when the stream is a terminal.
    """
    target = stream if stream is not None else sys.stderr
    text = form == "text" or (form == "auto" and target.isatty())
    handler = logging.StreamHandler(target)
    handler.setFormatter(TextFormatter() if text else JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("aiosqlite", "sqlalchemy.engine", "alembic", "httpx2", "asyncio", "uvicorn.access", "uvicorn.error"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
