"""The sentence that an engine says while someone else holds its memory."""

from __future__ import annotations

import os
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest

from engine.holders import Holder, Room, rooms, shortage
from engine.memory import GIB, Device

CARD = Device("cuda:0", "cuda", 24 * GIB, 2 * GIB)


def test_an_engine_that_has_room_everywhere_waits_for_nobody() -> None:
    assert shortage("chat", 2 * GIB, [Room(CARD)]) is None


def test_the_largest_holders_are_named_and_the_others_counted() -> None:
    holders = [Holder(number, f"job{number}", number * GIB) for number in range(1, 6)]
    assert shortage("chat", 8 * GIB, [Room(CARD, holders)]) == (
        "chat needs 8.0 GiB of cuda:0, where 2.0 GiB of 24.0 GiB are free; held by job5 (pid 5, 5.0 GiB), "
        "job4 (pid 4, 4.0 GiB), job3 (pid 3, 3.0 GiB) and 2 more"
    )


def test_a_holder_in_another_container_is_told_by_its_pid() -> None:
    told = shortage("chat", 8 * GIB, [Room(CARD, [Holder(7, None, None)])])
    assert told is not None
    assert told.endswith("held by a process of another container (pid 7)")


def test_small_processes_are_not_blamed() -> None:
    told = shortage("chat", 8 * GIB, [Room(CARD, [Holder(7, "bash", 1024)])])
    assert told is not None
    assert told.endswith("no single process of this machine holds much of the rest")


def test_the_device_that_is_fullest_is_the_one_told() -> None:
    other = Device("cuda:1", "cuda", 24 * GIB, 1 * GIB)
    told = shortage("chat", 8 * GIB, [Room(CARD), Room(other)])
    assert told is not None
    assert "of cuda:1, where 1.0 GiB" in told


def test_processes_of_this_machine_are_listed_but_for_our_own() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as ours:
        (room,) = rooms("cpu", None)
        pids = {holder.pid for holder in room.holders}
        ours.communicate(b"\n")
    assert room.device.name == "cpu"
    assert not pids & {os.getpid(), ours.pid}
    assert os.getppid() in pids


def nvml(compute: list[SimpleNamespace]) -> ModuleType:
    """A stand-in for the driver's library: one card of 24 GiB, 2 GiB of them free."""
    found = ModuleType("pynvml")
    found.__dict__.update(
        NVMLError=type("NVMLError", (Exception,), {}),
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetMemoryInfo=lambda _: SimpleNamespace(total=24 * GIB, free=2 * GIB),
        nvmlDeviceGetComputeRunningProcesses=lambda _: compute,
        nvmlDeviceGetGraphicsRunningProcesses=lambda _: [],
    )
    return found


def test_on_a_card_the_drivers_list_names_who_holds_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's list has our own engines too, and processes that this machine's list does not have."""
    gone = 2**22 - 1
    listed = [
        SimpleNamespace(pid=os.getpid(), usedGpuMemory=GIB),
        SimpleNamespace(pid=os.getppid(), usedGpuMemory=20 * GIB),
        SimpleNamespace(pid=gone, usedGpuMemory=None),
    ]
    monkeypatch.setitem(sys.modules, "pynvml", nvml(listed))
    (room,) = rooms("cuda", "0")
    assert room.device == CARD
    assert {(holder.pid, holder.held_bytes) for holder in room.holders} == {(os.getppid(), 20 * GIB), (gone, None)}
    assert {holder.name is None for holder in room.holders if holder.pid == gone} == {True}
    assert rooms("cuda", "3") == []
