"""Seeded faults: what goes wrong, and when. Decisions depend on the seed and on the order of requests only."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum, auto
from typing import Any

import msgspec


@dataclass(frozen=True, slots=True)
class SimulatedFaults:
    """All off by default. Probabilities are per request.

    `die_after_requests`: each life ends while its n-th request is running. `deaths_max` bounds the deaths of this kind
    and of `die_probability` over the engine's life; `poison` kills every time a body holds it;
    `abort_marker` and `overload_marker` do their kind of harm to the bodies that hold them.
    `failing_starts`: the first n starts fail; -1: every one.
    """

    die_after_requests: int | None = None
    die_probability: float = 0.0
    deaths_max: int | None = None
    poison: str | None = None
    start_seconds: float = 0.0
    failing_starts: int = 0
    start_cause: str = "simulated: out of memory while loading weights"
    overload_probability: float = 0.0
    abort_probability: float = 0.0
    abort_marker: str | None = None
    overload_marker: str | None = None

    def __post_init__(self) -> None:
        for name in ("die_probability", "overload_probability", "abort_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability, from 0 to 1, not {getattr(self, name)}")
        for name in ("die_after_requests", "deaths_max", "start_seconds"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name} must be 0 or more, not {value}")

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> SimulatedFaults:
        """From configuration. ValueError names the fault that is unknown, or of a wrong type or size."""
        known = [field.name for field in fields(cls)]
        if unknown := [name for name in given if name not in known]:
            raise ValueError(f"unknown fault {unknown[0]} (known: {', '.join(known)})")
        try:
            return msgspec.convert(given, cls)
        except msgspec.ValidationError as error:
            complaint, _, path = str(error).partition(" - at ")
            place = path.strip("`").removeprefix("$").lstrip(".")
            raise ValueError(f"{place}: {complaint}" if place else complaint) from None


class Fate(Enum):
    ANSWER = auto()
    DIE = auto()
    OVERLOAD = auto()
    ABORT = auto()


class _Marker:
    def __init__(self, text: str | None) -> None:
        self._bytes = None if text is None else text.encode()

    def marks(self, body: bytes) -> bool:
        return self._bytes is not None and self._bytes in body


class Dice:
    """Throws the faults of one engine, over all its lives."""

    def __init__(self, faults: SimulatedFaults, seed: int) -> None:
        self.faults = faults
        self._poison = _Marker(faults.poison)
        self._abort = _Marker(faults.abort_marker)
        self._overload = _Marker(faults.overload_marker)
        self._chance = random.Random(seed)  # noqa: S311 (a simulation)
        self._starts = 0
        self._deaths = 0
        self._requests_of_this_life = 0

    def start_fails(self) -> bool:
        self._starts += 1
        self._requests_of_this_life = 0
        return self.faults.failing_starts < 0 or self._starts <= self.faults.failing_starts

    def fate(self, body: bytes) -> Fate:
        faults = self.faults
        self._requests_of_this_life += 1
        overload, death, abort = (self._chance.random() for _ in range(3))
        if overload < faults.overload_probability or self._overload.marks(body):
            return Fate.OVERLOAD
        if self._poison.marks(body):
            return Fate.DIE
        if self._deaths != faults.deaths_max and (
            death < faults.die_probability or self._requests_of_this_life == faults.die_after_requests
        ):
            self._deaths += 1
            return Fate.DIE
        return Fate.ABORT if abort < faults.abort_probability or self._abort.marks(body) else Fate.ANSWER
