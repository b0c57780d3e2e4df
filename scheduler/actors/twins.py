"""Lines that ask the same question at once: one of them goes to an engine, the others take its answer.

What is kept here bridges the time until an answer is in the store and shards that were opened before have ended.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from scheduler.actors.held import HeldShard, Line
from store.records import KeptAnswer

ENTRY_BYTES: Final = 300
"""What an answer takes in memory beside its body."""

APART_MAX: Final = 10_000
"""Questions remembered as such that got an error."""


@dataclass(slots=True)
class _Flight:
    """A line that an engine has, and those that wait for its answer."""

    line: Line
    parked: list[Line] = field(default_factory=list)


class Twins:
    """Lines without a `reuse_key` pass through. A line that is parked here waits nowhere else: each method that takes
    lines from here returns them, to be answered or put back by who called.

    An error is nobody's answer but its own: when a line ends with one, its twins run for themselves, side by side.
    """

    def __init__(self, *, answer_bytes_max: int) -> None:
        self._answer_bytes_max = answer_bytes_max
        self._flights: dict[bytes, _Flight] = {}
        self._answers: OrderedDict[bytes, KeptAnswer] = OrderedDict()
        self._answer_bytes = 0
        self._apart: OrderedDict[bytes, None] = OrderedDict()

    def answer(self, line: Line) -> KeptAnswer | None:
        """What a twin has got already."""
        return None if line.reuse_key is None else self._answers.get(line.reuse_key)

    def park(self, line: Line) -> bool:
        """Whether the line now waits here for the answer of a twin that an engine has."""
        key = line.reuse_key
        flight = None if key is None else self._flights.get(key)
        if flight is None or flight.line is line or key in self._apart:
            return False
        flight.parked.append(line)
        return True

    def departed(self, line: Line) -> None:
        """The line goes to an engine, as a whole or in slices."""
        if line.reuse_key is not None:
            self._flights.setdefault(line.reuse_key, _Flight(line))

    def landed(self, line: Line) -> list[Line]:
        """The line has come back and has no result; those that waited for it."""
        key = line.reuse_key
        flight = None if key is None else self._flights.get(key)
        if key is None or flight is None or flight.line is not line:
            return []
        del self._flights[key]
        return flight.parked

    def removed(self, shard: HeldShard) -> list[Line]:
        """The shard is not held any more; the lines of others that waited for one of its."""
        keys = [key for key, flight in self._flights.items() if flight.line.shard is shard]
        return [line for key in keys for line in self._flights.pop(key).parked]

    def answered(self, answer: KeptAnswer) -> list[Line]:
        """A line has got this answer; those that waited for it. Others find it in their turn."""
        self._apart.pop(answer.key, None)
        if answer.key not in self._answers:
            self._answers[answer.key] = answer
            self._answer_bytes += len(answer.body) + ENTRY_BYTES
        while self._answer_bytes > self._answer_bytes_max:
            _, oldest = self._answers.popitem(last=False)
            self._answer_bytes -= len(oldest.body) + ENTRY_BYTES
        flight = self._flights.pop(answer.key, None)
        return [] if flight is None else flight.parked

    def failed(self, line: Line) -> list[Line]:
        """The line has a result that is its own alone; those that waited for it."""
        if line.reuse_key is None:
            return []
        self._apart[line.reuse_key] = None
        if len(self._apart) > APART_MAX:
            self._apart.popitem(last=False)
        flight = self._flights.pop(line.reuse_key, None)
        return [] if flight is None else flight.parked
