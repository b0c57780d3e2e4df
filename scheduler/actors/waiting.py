"""All lines that wait: in lanes by model, or for a back-off to end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from scheduler.actors.held import HeldShard, Line
from scheduler.actors.lane import Lane
from scheduler.policy.planner import ModelKey


@dataclass(frozen=True, slots=True)
class Ended:
    """Lines of one model that got a result. `is_full`: others wait, so its engines had as many as they may have."""

    lines: int
    is_full: bool


class Waiting:
    """`on_ready` is called when a back-off has ended and something may start."""

    def __init__(self, on_ready: Callable[[], None]) -> None:
        self._on_ready = on_ready
        self._lanes: dict[ModelKey, Lane] = {}
        self._place: dict[str, int] = {}
        self._low: Mapping[ModelKey, int] = {}
        self._hurried: Collection[str] = ()
        self._timers: set[asyncio.TimerHandle] = set()

    def __iter__(self) -> Iterator[Lane]:
        return iter(list(self._lanes.values()))

    def add(self, shard: HeldShard) -> None:
        lane = self._lanes.setdefault(shard.model, Lane(shard.model))
        lane.add(shard)
        lane.low = self._low.get(shard.model, 1)
        lane.rank(self._place, self._hurried)

    def remove(self, shard: HeldShard) -> None:
        """From here on no line of the shard waits, whatever comes back. It need not have been added."""
        shard.leaving = True
        if shard.model in self._lanes:
            self._lanes[shard.model].remove(shard)
        shard.waiting.clear()

    def rank(self, ranking: Sequence[str], low: Mapping[ModelKey, int], hurried: Collection[str] = ()) -> None:
        """Batches by urgency, for each model how few waiting lines are too few, and who lets nobody go first."""
        self._place = {batch_id: place for place, batch_id in enumerate(ranking)}
        self._low = low
        self._hurried = hurried
        for lane in self._lanes.values():
            lane.rank(self._place, hurried)
            lane.low = low.get(lane.key, lane.low)

    def put_back(self, line: Line) -> None:
        if not line.is_gone:
            self._lanes[line.shard.model].put_back(line)

    def put_back_all(self, lines: Sequence[Line]) -> None:
        """So that the first of them is the first to go."""
        for line in reversed(lines):
            self.put_back(line)

    def put_back_in(self, line: Line, seconds: float) -> None:
        if seconds <= 0:
            self.put_back(line)
        else:
            self._call_in(seconds, lambda: self.put_back(line))

    def drop_gone(self, shard: HeldShard) -> None:
        """Forget the waiting lines of a shard that are not wanted any more."""
        self._lanes[shard.model].drop_gone(shard)

    def look_again_in(self, seconds: float, *, before: Callable[[], None] = lambda: None) -> None:
        self._call_in(seconds, before)

    def count_ended(self, line: Line) -> None:
        self._lanes[line.shard.model].ended += 1

    def take_ended(self) -> dict[ModelKey, Ended]:
        """What got a result since the last call, of each model that had anything to do."""
        ended = {
            lane.key: Ended(lane.ended, is_full=lane.waiting > 0)
            for lane in self._lanes.values()
            if lane.ended or lane.waiting or lane.is_running
        }
        for lane in self._lanes.values():
            lane.ended = 0
        return ended

    def close(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    def _call_in(self, seconds: float, callback: Callable[[], None]) -> None:
        def run() -> None:
            self._timers.discard(handle)
            callback()
            self._on_ready()

        handle = asyncio.get_running_loop().call_later(seconds, run)
        self._timers.add(handle)
