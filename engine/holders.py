"""Who holds a device's memory, for the sentence that an engine says while it waits for it.

On a CPU those are the biggest processes, on a card the ones that its driver lists. Engines of this server are left out:
they hold what was planned for them.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from engine.machine import read_cards, read_cpu_memory
from engine.memory import GIB, Device
from engine.processes import tree_of

NAMED_MAX = 3
NAMED_BYTES_MIN = 256 * 1024 * 1024
"""What holds less than this is not why an engine cannot start."""


@dataclass(frozen=True, slots=True)
class Holder:
    """`name` None: the driver knows the process, this machine's process list does not (another container)."""

    pid: int
    name: str | None
    held_bytes: int | None


@dataclass(frozen=True, slots=True)
class Room:
    """What is free on a device now, and who holds the rest."""

    device: Device
    holders: Sequence[Holder] = ()


def shortage(engine: str, need_bytes: int, rooms: Iterable[Room]) -> str | None:
    """Why the engine cannot have what it needs on each device, as a sentence for people; None when it can."""
    short = [room for room in rooms if room.device.free_bytes < need_bytes]
    if not short:
        return None
    room = min(short, key=lambda room: room.device.free_bytes)
    return (
        f"{engine} needs {_gib(need_bytes)} of {room.device.name}, where {_gib(room.device.free_bytes)} of "
        f"{_gib(room.device.total_bytes)} are free; {_held_by(room.holders)}"
    )


def _held_by(holders: Sequence[Holder]) -> str:
    known = [one for one in holders if one.held_bytes is None or one.held_bytes >= NAMED_BYTES_MIN]
    if not known:
        return "no single process of this machine holds much of the rest"
    largest = sorted(known, key=lambda one: -(one.held_bytes or 0))
    named = ", ".join(_named(one) for one in largest[:NAMED_MAX])
    more = len(largest) - NAMED_MAX
    return f"held by {named}" + (f" and {more} more" if more > 0 else "")


def _named(holder: Holder) -> str:
    name = holder.name or "a process of another container"
    held = "" if holder.held_bytes is None else f", {_gib(holder.held_bytes)}"
    return f"{name} (pid {holder.pid}{held})"


def rooms(device: str, devices: str | None) -> list[Room]:
    """The rooms of an engine: `device` is `cpu` or `cuda`, `devices` the cards' numbers as in CUDA_VISIBLE_DEVICES.
    Blocks for some milliseconds."""
    ours = {mark.pid for mark in tree_of(os.getpid(), "server")}
    if device == "cpu":
        return [Room(read_cpu_memory(), _cpu_holders(ours))]
    wanted = {f"cuda:{number}" for number in (devices or "").split(",") if number}
    cards = [card for card in read_cards() if not wanted or card.name in wanted]
    return [Room(card, _card_holders(int(card.name.partition(":")[2]), ours)) for card in cards]


def _cpu_holders(ours: Collection[int]) -> list[Holder]:
    found = []
    for process in psutil.process_iter(["pid", "name", "memory_info"]):
        memory = process.info["memory_info"]
        if process.pid not in ours and memory is not None:
            private = max(0, memory.rss - getattr(memory, "shared", 0))
            found.append(Holder(process.pid, process.info["name"], private))
    return found


def _card_holders(index: int, ours: Collection[int]) -> list[Holder]:
    """Written by NVML's documentation; not run on a card yet. Nobody is named where the driver does not tell."""
    nvml: Any = importlib.import_module("pynvml")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return []
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        running = [
            *nvml.nvmlDeviceGetComputeRunningProcesses(handle),
            *nvml.nvmlDeviceGetGraphicsRunningProcesses(handle),
        ]
    except nvml.NVMLError:
        return []
    finally:
        nvml.nvmlShutdown()
    by_pid = {int(one.pid): one.usedGpuMemory for one in running}
    return [Holder(pid, _name(pid), held) for pid, held in by_pid.items() if pid not in ours]


def _name(pid: int) -> str | None:
    try:
        return str(psutil.Process(pid).name())
    except psutil.Error:
        return None


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
