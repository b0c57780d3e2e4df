"""The tables of docs/api.md, for tests that hold it to the application."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

PROJECT = Path(__file__).parents[2]
CODE = re.compile(r"`([^`]+)`")


@cache
def sections() -> Mapping[str, list[list[str]]]:
    """The rows of every table, by the heading above it; cells as they are written."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in (PROJECT / "docs" / "api.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("|"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
            found.setdefault(heading, []).append(cells)
    return {heading: rows[2:] for heading, rows in found.items()}


def rows() -> list[tuple[str, list[str]]]:
    return [(heading, cells) for heading, table in sections().items() for cells in table]


def names(heading: str) -> set[str]:
    """What the first column of a table names."""
    return {name for cells in sections()[heading] for name in CODE.findall(cells[0])}
