"""Which of a server's processes used the CPU: itself, its workers, the front of an engine, or the engine."""

from __future__ import annotations

import psutil

SERVER, WORKERS, FRONT, ENGINE = "server", "workers", "front", "engine"
HOST_MODULE = "engine.vllm.host"


def cpu_seconds(pid: int) -> dict[str, float]:
    """So far, by part, of the processes that live now."""
    found = dict.fromkeys((SERVER, WORKERS, FRONT, ENGINE), 0.0)
    root = psutil.Process(pid)
    for process in [root, *root.children(recursive=True)]:
        try:
            times = process.cpu_times()
            found[_part(process, pid)] += times.user + times.system
        except psutil.NoSuchProcess:
            continue
    return found


def _part(process: psutil.Process, root: int) -> str:
    if process.pid == root:
        return SERVER
    above = [process, *process.parents()]
    hosts = [one for one in above if HOST_MODULE in one.cmdline()]
    if not hosts:
        return WORKERS
    return FRONT if hosts[0].pid == process.pid else ENGINE


def used(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    return {part: max(0.0, seconds - before[part]) for part, seconds in after.items()}
