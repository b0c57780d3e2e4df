"""The simulated KV cache: blocks shared by hash, kept after use, evicted oldest first. Pure bookkeeping."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


class KvCache:
    """Counts blocks. Full prompt blocks are known by hash and shared; the rest of a sequence is private to it."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self._shared: dict[int, int] = {}  # hash -> sequences that hold it
        self._idle: OrderedDict[int, None] = OrderedDict()  # hashes that nobody holds, oldest first
        self._private = 0
        self.queries = 0
        self.hits = 0

    @property
    def held(self) -> int:
        """Blocks that running sequences hold; the idle ones can be had at any time."""
        return self._private + len(self._shared)

    @property
    def free(self) -> int:
        return self.blocks - self.held

    def match(self, hashes: Sequence[int]) -> int:
        """How many leading blocks are in the cache."""
        matched = 0
        for block in hashes:
            if block not in self._shared and block not in self._idle:
                break
            matched += 1
        return matched

    def admit(self, hashes: Sequence[int], private: int) -> int | None:
        """Take the blocks of a prompt; the number that needed no computing, or None when there is no room."""
        matched = self.match(hashes)
        fresh = sum(1 for block in hashes if block not in self._shared)
        if fresh + private > self.free:
            return None
        self.queries += len(hashes)
        self.hits += matched
        for block in hashes:
            self._idle.pop(block, None)
            self._shared[block] = self._shared.get(block, 0) + 1
        self._private += private
        self._evict()
        return matched

    def grow(self, blocks: int) -> bool:
        """Take private blocks for generated tokens; False when there is no room."""
        if blocks > self.free:
            return False
        self._private += blocks
        self._evict()
        return True

    def release(self, hashes: Sequence[int], private: int) -> None:
        self._private -= private
        for block in hashes:
            holders = self._shared[block] - 1
            if holders:
                self._shared[block] = holders
            else:
                del self._shared[block]
                self._idle[block] = None

    def _evict(self) -> None:
        while len(self._idle) + self.held > self.blocks:
            self._idle.popitem(last=False)
