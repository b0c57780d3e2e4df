"""`nightbatch serve`, which also writes down when it passes each marker of a request's walk (`store/markers.py`).

The times are of the monotonic clock, which all processes of a machine share: a client's own fit between them.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from store import markers

FILE_VARIABLE = "BENCH_MARKERS"


@dataclass(frozen=True, slots=True)
class Passing:
    at: float
    marker: str


def read(path: Path) -> list[Passing]:
    """In the order of time: they were written by several threads."""
    rows = (line.split() for line in path.read_text(encoding="ascii").splitlines())
    return sorted((Passing(float(at), marker) for at, marker in rows), key=lambda one: one.at)


def note_passings(path: Path) -> None:
    """From now on, in this process."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    markers.install(lambda marker: _write(fd, marker))


def _write(fd: int, marker: str) -> None:
    os.write(fd, f"{time.monotonic():.6f} {marker}\n".encode())


def main(argv: Sequence[str]) -> int:
    from nightbatch import cli

    note_passings(Path(os.environ[FILE_VARIABLE]))
    sys.argv[1:] = argv
    return cli.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
