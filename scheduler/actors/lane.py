"""The lines that wait for one model, over all shards held for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from scheduler.actors.held import HeldShard, Line
from scheduler.policy.planner import ModelKey


class Lane:
    """Shards in the order of their batches' urgency; the first with a waiting line gives the next one.

    `low` is the number of waiting lines at which another shard should be leased.
    """

    def __init__(self, key: ModelKey) -> None:
        self.key = key
        self.low = 1
        self.waiting = 0
        self.ended = 0
        self._shards: list[HeldShard] = []

    def add(self, shard: HeldShard) -> None:
        self._shards.append(shard)
        self.waiting += len(shard.waiting)

    def remove(self, shard: HeldShard) -> None:
        if shard in self._shards:
            self._shards.remove(shard)
            self.waiting -= len(shard.waiting)

    def rank(self, place: Mapping[str, int]) -> None:
        self._shards.sort(key=lambda shard: (place.get(shard.batch_id, len(place)), shard.shard_no))

    @property
    def is_running(self) -> bool:
        return any(shard.tasks for shard in self._shards)

    def peek(self) -> Line | None:
        for shard in self._shards:
            if shard.waiting and not shard.blocked:
                return shard.waiting[0]
        return None

    def take(self, line: Line) -> bool:
        """Remove the line that `peek` showed; True when the lane has just become low."""
        taken = line.shard.waiting.popleft()
        assert taken is line
        self.waiting -= 1
        return self.waiting == self.low - 1

    def divide(self, line: Line, slices: Sequence[Line]) -> None:
        """Put slices in the place of the line that `peek` showed."""
        taken = line.shard.waiting.popleft()
        assert taken is line
        line.shard.waiting.extendleft(reversed(slices))
        self.waiting += len(slices) - 1

    def drop_gone(self, shard: HeldShard) -> None:
        kept = [line for line in shard.waiting if not line.is_gone]
        if shard in self._shards:
            self.waiting -= len(shard.waiting) - len(kept)
        shard.waiting = deque(kept)

    def put_back(self, line: Line) -> None:
        """To the front: it waited its turn already."""
        line.shard.waiting.appendleft(line)
        self.waiting += 1
