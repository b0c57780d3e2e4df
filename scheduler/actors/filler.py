"""Gives the lines of a shard the answers that the store has kept from other lines."""

from __future__ import annotations

import asyncio
from itertools import islice

from scheduler.actors.dispatcher import Dispatcher
from scheduler.actors.held import HeldShard, Line
from scheduler.actors.waking import sleep_until
from scheduler.settings import SchedulerSettings

LINES_AT_ONCE = 128
BYTES_AT_ONCE = 4 * 1024 * 1024
"""Of answers read at once; a single one may be longer."""


class Filler:
    def __init__(self, settings: SchedulerSettings, dispatcher: Dispatcher) -> None:
        self._settings = settings
        self._dispatcher = dispatcher

    async def fill(self, shard: HeldShard) -> None:
        """Answer the shard's `stored` lines, some at a time and no faster than results are written. A line whose answer
        is gone from the store goes to the engines, and so do all that are left when something goes wrong here."""
        kept = shard.kept
        assert kept is not None
        try:
            while shard.stored and not shard.is_gone:
                await self._written(shard)
                group = _group(shard)
                answers = await asyncio.to_thread(kept.read, [key for line in group if (key := line.reuse_key)])
                for line in group:
                    shard.stored.popleft()
                    self._dispatcher.fill(line, answers.get(line.reuse_key or b""))
                self._dispatcher.pump()
        finally:
            shard.is_filling = False
            while shard.stored:
                self._dispatcher.fill(shard.stored.popleft()[0], None)
            self._dispatcher.pump()

    async def _written(self, shard: HeldShard) -> None:
        """Until the results that wait to be written are few again."""
        while shard.buffer_bytes >= self._settings.append_bytes_max and not shard.is_gone:
            shard.appended.clear()
            await sleep_until(shard.appended, self._settings.append_interval_ms / 1000)


def _group(shard: HeldShard) -> list[Line]:
    group: list[Line] = []
    size = 0
    for line, answer_bytes in islice(shard.stored, LINES_AT_ONCE):
        size += answer_bytes
        if group and size > BYTES_AT_ONCE:
            break
        group.append(line)
    return group
