"""What `nightbatch doctor` looks at. A check answers with findings and never raises for what it was asked to find."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum


class Level(StrEnum):
    """`warn`: the server would start, but something is worse than it need be."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """`todo` is what to do about it, empty when nothing is to be done."""

    level: Level
    name: str
    says: str
    todo: str = ""

    def plain(self) -> dict[str, str]:
        return {name: str(value) for name, value in asdict(self).items()}


def ok(name: str, says: str) -> Finding:
    return Finding(Level.OK, name, says)


def warn(name: str, says: str, todo: str) -> Finding:
    return Finding(Level.WARN, name, says, todo)


def fail(name: str, says: str, todo: str) -> Finding:
    return Finding(Level.FAIL, name, says, todo)
