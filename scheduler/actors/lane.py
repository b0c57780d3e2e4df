"""The lines that wait for one model, over all shards held for it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence

from scheduler.actors.held import HeldShard, Line
from scheduler.policy.detours import Credit, pays
from scheduler.policy.planner import ModelKey


class Lane:
    """Shards in the order of their batches' urgency; the first with a waiting line gives the next one.

    But before it goes on to another prefix, lines of other shards with the last one may go first, see policy.detours.
    `low` is the number of waiting lines at which another shard should be leased.
    """

    def __init__(self, key: ModelKey) -> None:
        self.key = key
        self.low = 1
        self.waiting = 0
        self.ended = 0
        self._shards: list[HeldShard] = []
        self._hurried: Collection[str] = ()
        self._runs: Counter[int] = Counter()
        """By prefix, how many shards have it among their `runs`: mostly it is one, and none need be looked at."""

        self._credit = Credit()
        self._prefix = 0
        self._prefix_tokens = 0
        self._beside: deque[HeldShard] | None = None
        """Shards whose first lines have the prefix of the last line that went; None: not looked for yet."""

    def add(self, shard: HeldShard) -> None:
        self._shards.append(shard)
        self._runs.update(shard.runs.keys())
        self.waiting += len(shard.waiting)

    def remove(self, shard: HeldShard) -> None:
        if shard in self._shards:
            self._shards.remove(shard)
            self._runs.subtract(shard.runs.keys())
            self._runs = +self._runs  # what has come to 0 is forgotten
            self.waiting -= len(shard.waiting)

    def rank(self, place: Mapping[str, int], hurried: Collection[str] = ()) -> None:
        """`hurried` are batches that let nobody go first."""
        self._hurried = hurried
        self._shards.sort(key=lambda shard: (place.get(shard.batch_id, len(place)), shard.shard_no))

    @property
    def is_running(self) -> bool:
        return any(shard.tasks for shard in self._shards)

    def peek(self) -> Line | None:
        front = self._front()
        if front is None:
            return None
        line = front.waiting[0]
        if self._prefix and line.cost.prefix != self._prefix:
            return self._detour(front) or line
        return line

    def take(self, line: Line) -> bool:
        """Remove the line that `peek` showed; True when the lane has just become low."""
        cost = line.cost
        if cost.prefix:
            if line.shard is self._front():
                self._credit.earn(line.shard.batch_id)
            else:
                self._credit.spend()
        if cost.prefix != self._prefix:
            self._prefix, self._prefix_tokens, self._beside = cost.prefix, cost.prefix_tokens, None
        taken = line.shard.waiting.popleft()
        assert taken is line
        self.waiting -= 1
        return self.waiting == self.low - 1

    def _front(self) -> HeldShard | None:
        for shard in self._shards:
            if shard.waiting and not shard.blocked:
                return shard
        return None

    def _detour(self, front: HeldShard) -> Line | None:
        """The next line that goes before those of the shard in front."""
        if self._beside is None:
            may = front.batch_id not in self._hurried and self._runs[self._prefix] > (self._prefix in front.runs)
            others = [shard for shard in self._shards if shard is not front] if may else []
            self._beside = deque(shard for shard in others if self._joins(shard))
        while self._beside and self._credit.of(front.batch_id) > 0:
            shard = self._beside[0]
            if shard.waiting and not shard.blocked and shard.waiting[0].cost.prefix == self._prefix:
                return shard.waiting[0]
            self._beside.popleft()
        self._prefix = 0
        return None

    def _joins(self, shard: HeldShard) -> bool:
        """Bring the shard's lines with the present prefix to its front, if there are any and it is worth while."""
        run = shard.runs.get(self._prefix)
        if run is None or not pays(run, max(run.prefix_tokens, self._prefix_tokens)):
            return False
        del shard.runs[self._prefix]
        self._runs[self._prefix] -= 1
        these = [line for line in shard.waiting if line.cost.prefix == self._prefix]
        if these:
            shard.waiting = deque(these + [line for line in shard.waiting if line.cost.prefix != self._prefix])
        return bool(these)

    def find(self, batch_id: str, wanted: Callable[[int], bool]) -> Line | None:
        """The first waiting line of the batch whose prefix others share and is wanted, wherever it stands."""
        for shard in self._shards:
            if shard.batch_id != batch_id or shard.blocked:
                continue
            prefix, is_wanted = 0, False
            for line in shard.waiting:
                if line.cost.prefix != prefix:
                    prefix = line.cost.prefix
                    is_wanted = bool(line.cost.prefix_tokens) and wanted(prefix)
                if is_wanted and line.reuse_key is None and line.cost.requests == 1:
                    return line
        return None

    def take_out(self, line: Line) -> bool:
        """Remove a line that `find` found; True when the lane has just become low."""
        line.shard.waiting.remove(line)
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
