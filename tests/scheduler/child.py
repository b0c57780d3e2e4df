"""A scheduler in a process of its own, to be stopped and continued by a test.

Says `appended` when a group of its results is durable, and `lost` when it finds that a shard is not its own any more.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

from scheduler import Scheduler
from store import markers, open_store
from tests.scheduler.world import SETTINGS, TestEngine, registry_of


class _SayLost(logging.Handler):
    said = False

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("shard lost") and not self.said:
            self.said = True
            print("lost", flush=True)


async def main(folder: Path) -> None:
    said: list[str] = []

    def on_marker(name: str) -> None:
        if name == "append.synced" and not said:
            said.append(name)
            print("appended", flush=True)

    logging.getLogger("scheduler").addHandler(_SayLost())
    engine = TestEngine(inflight_requests_max=4)
    engine.answer_seconds = 0.05
    async with await open_store(folder, lock=False) as store:
        markers.install(on_marker)
        await Scheduler(store, registry_of(engine), SETTINGS, holder="child").run()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
