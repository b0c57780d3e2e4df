"""Seeded faults: what goes wrong, and when. Decisions depend on the seed and on the order of requests only."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum, auto


@dataclass(frozen=True, slots=True)
class SimulatedFaults:
    """All off by default. Probabilities are per request.

    `die_after_requests`: each life ends while its n-th request is running. `deaths_max` bounds the deaths of this kind
    and of `die_probability` over the engine's life; `poison` kills every time a body holds it.
    `failing_starts`: the first n starts fail; -1: every one.
    """

    die_after_requests: int | None = None
    die_probability: float = 0.0
    deaths_max: int | None = None
    poison: str | bytes | None = None
    start_seconds: float = 0.0
    failing_starts: int = 0
    start_cause: str = "simulated: out of memory while loading weights"
    overload_probability: float = 0.0
    abort_probability: float = 0.0


class Fate(Enum):
    ANSWER = auto()
    DIE = auto()
    OVERLOAD = auto()
    ABORT = auto()


class Dice:
    """Throws the faults of one engine, over all its lives."""

    def __init__(self, faults: SimulatedFaults, seed: int) -> None:
        self.faults = faults
        self._poison = faults.poison.encode() if isinstance(faults.poison, str) else faults.poison
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
        if overload < faults.overload_probability:
            return Fate.OVERLOAD
        if self._poison is not None and self._poison in body:
            return Fate.DIE
        if self._deaths != faults.deaths_max and (
            death < faults.die_probability or self._requests_of_this_life == faults.die_after_requests
        ):
            self._deaths += 1
            return Fate.DIE
        return Fate.ABORT if abort < faults.abort_probability else Fate.ANSWER
