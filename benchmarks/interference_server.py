"""The server that `interference` measures: the real house in a process of its own, which takes an arm's settings on a
local socket. What an arm changes are the orders of the online-first scheduler and who rules what is in flight.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.baseline_caps import Aimd, static
from benchmarks.form import CouldNotMeasure
from benchmarks.interference_arms import STATIC_CAP, Cap, Setting
from engine.protocol import Engine, EngineState
from engine.supervisor import Supervised
from engine.vllm import VllmEngine
from engine.vllm.online_first.link import Link
from engine.vllm.online_first.policy import Mode, Orders
from nightbatch.compose import House
from nightbatch.config import ServeFlags, find_file, load
from nightbatch.serve import run_server
from scheduler.actors.throttle import Governor
from scheduler.policy.allowance import FREE

REPLY_SECONDS_MAX = 600.0
"""The first reply comes when all engines are ready."""


class Control:
    """Puts one arm's settings into force."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._changed = asyncio.Event()
        house.registry.on_change(self._changed.set)
        self._aimd: dict[str, Aimd] = {}
        """One for all windows of its arm: it finds its bound slowly."""

        self._serving: asyncio.Server | None = None
        self._starting: asyncio.Task[None] | None = None

    def listen(self, path: Path) -> None:
        self._starting = asyncio.get_running_loop().create_task(self._listen(path), name="control")

    async def _listen(self, path: Path) -> None:
        self._serving = await asyncio.start_unix_server(self._talk, path)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            command = json.loads(await reader.readline())
            await self._all_ready()
            if "orders" in command:
                self.apply(orders_of(command["orders"]), command["cap"])
            said: object = self._inflight()
        except (CouldNotMeasure, KeyError, TypeError, ValueError) as error:
            said = f"{type(error).__name__}: {error}"
        writer.write(json.dumps(said).encode() + b"\n")
        await writer.drain()
        writer.close()

    def _inflight(self) -> int:
        """Batch requests that the engines which take orders have been given."""
        names = {engine.name for engine, _ in self._links()}
        return sum(view.inflight for view in self._house.scheduler.throttle.views() if view.engine in names)

    async def _all_ready(self) -> None:
        """The server answers when one of its engines does; another that still loads would take the cores."""
        registry = self._house.registry
        while any(engine.status().state is not EngineState.READY for engine in registry.engines()):
            self._changed.clear()
            await self._changed.wait()

    def apply(self, orders: Orders, cap: Cap) -> None:
        """Embeddings and whatever else is served keep the house's own rule: only the chat engine changes."""
        for engine, link in self._links():
            link.give(orders)
            self._house.scheduler.throttle.govern(engine.name, self._governor(engine, orders.mode, cap))

    def _governor(self, engine: Engine, mode: Mode, cap: Cap) -> Governor | None:
        """None: the house's own rule, which is the feedback cap while the engine does not bound its steps itself."""
        if cap == "feedback" or mode is Mode.ONLINE_FIRST:
            return None
        if cap == "aimd":
            return self._aimd.setdefault(engine.name, Aimd(lambda: engine.load().kv_use))
        return static(STATIC_CAP) if cap == "static" else lambda _signs: FREE

    def _links(self) -> Sequence[tuple[Engine, Link]]:
        found = []
        for engine in self._house.registry.engines():
            inner = engine.engine if isinstance(engine, Supervised) else engine
            if isinstance(inner, VllmEngine) and inner.online_first is not None:
                found.append((engine, inner.online_first))
        if not found:
            raise CouldNotMeasure("no engine of this server takes orders (online_first)")
        return found


def orders_of(plain: dict[str, Any]) -> Orders:
    return Orders(**{**plain, "mode": Mode(plain["mode"])})


def tell(path: Path, setting: Setting | None = None) -> int:
    """Put an arm's settings into force, or only ask; returns how many batch requests the engine has been given then.
    Runs in the benchmark's process."""
    command = {} if setting is None else {"orders": asdict(setting.orders), "cap": setting.cap}
    with socket.socket(socket.AF_UNIX) as talking:
        talking.settimeout(REPLY_SECONDS_MAX)
        try:
            talking.connect(os.fspath(path))
            talking.sendall(json.dumps(command).encode() + b"\n")
            said = json.loads(talking.makefile("rb").readline())
        except (OSError, ValueError) as error:
            raise CouldNotMeasure(f"the server takes no settings: {error}") from error
    if not isinstance(said, int):
        raise CouldNotMeasure(f"the server did not take settings: {said}")
    return said


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.interference_server", description=__doc__)
    parser.add_argument("--control", required=True, type=Path, help="path of the socket")
    parser.add_argument("--port", required=True, type=int)
    parser.add_argument("--data", required=True, type=Path)
    asked = parser.parse_args(argv)
    config = load(find_file(None), flags=ServeFlags(port=asked.port, data=asked.data))
    kept: list[Control] = []  # the event loop itself holds on to nothing of it

    def joined(house: House) -> None:
        kept.append(Control(house))
        kept[0].listen(asked.control)

    return run_server(config, joined=joined)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
