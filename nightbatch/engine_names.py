"""Names of engines: the same for the same configuration, each of them once, and fit to be the name of a file."""

from __future__ import annotations

import re
from collections.abc import Sequence

UNNAMED = "engine"
"""What an engine is called when its model's name holds nothing that a file name may."""


class EngineNames:
    """`a/b` and `a-b` are different models, and one upstream may serve two: the second engine gets a number."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def of_model(self, model: str, replicas: int = 1) -> Sequence[str]:
        name = _slug(model)
        if replicas == 1:
            return [self._free(name)]
        return [self._free(f"{name}-{number}") for number in range(1, replicas + 1)]

    def of_url(self, url: str) -> str:
        return self._free(_slug(re.sub(r"^https?://", "", url)))

    def _free(self, name: str) -> str:
        free, number = name, 1
        while free in self._taken:
            number += 1
            free = f"{name}-{number}"
        self._taken.add(free)
        return free


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or UNNAMED
