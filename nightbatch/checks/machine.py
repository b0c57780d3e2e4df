"""Disk, memory, cores, GPUs and ports of this machine."""

from __future__ import annotations

import importlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nightbatch.checks import Finding, fail, ok, warn

MIB = 1024 * 1024
GIB = 1024 * MIB
MEMORY_AVAILABLE_MIN_BYTES = 4 * GIB
"""The two embedded models with their engine processes need about this much."""
NVIDIA_SMI_SECONDS_MAX = 15.0


def data_folder(folder: Path, reserve_mib: int) -> Iterator[Finding]:
    """The folder itself may not be there yet; what counts is the nearest one above it that is."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        yield fail("data folder", f"{folder}: {place} is not a folder", "name another with --data or [store] folder")
        return
    if not os.access(place, os.W_OK | os.X_OK):
        yield fail("data folder", f"{folder} is not writable for this user", f"chown or chmod {place}, or use --data")
    else:
        yield ok("data folder", f"{folder}{'' if folder.exists() else ' (made at the first start)'}")
    free = shutil.disk_usage(place).free
    says = f"{free / GIB:.1f} GiB free, {reserve_mib / 1024:.1f} GiB of them reserved"
    if free <= reserve_mib * MIB:
        yield fail("disk", says, "uploads are refused and batches wait: free space, or lower [store] disk_reserve_mib")
    elif free <= 4 * reserve_mib * MIB:
        yield warn("disk", says, "little room for uploads and results: free space or move the data folder")
    else:
        yield ok("disk", says)


def memory() -> Finding:
    import psutil

    found = psutil.virtual_memory()
    says = f"{found.available / GIB:.1f} of {found.total / GIB:.1f} GiB available"
    if found.available < MEMORY_AVAILABLE_MIN_BYTES:
        return warn("memory", says, "models on the CPU may not fit: close something, or serve fewer models")
    return ok("memory", says)


def cores() -> Finding:
    """The cores that this process may use: what a container or taskset leaves of the machine."""
    usable, there = sorted(os.sched_getaffinity(0)), os.cpu_count() or 0
    says = f"{len(usable)} usable: {','.join(map(str, usable))}"
    if len(usable) < there:
        return warn("cores", f"{says}, of {there}", "taskset, a container or a service unit leaves out the others")
    return ok("cores", says)


def gpus() -> Finding:
    """By NVML where its Python package is installed, else by nvidia-smi, else there are none."""
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return _by_nvidia_smi()
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return ok("gpu", f"none ({error}): models run on the CPU")
    try:
        cards = [_card(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError as error:
        return warn("gpu", f"NVML fails: {error}", "check the NVIDIA driver: nvidia-smi")
    finally:
        nvml.nvmlShutdown()
    return _gpu_finding(cards)


def _card(nvml: Any, index: int) -> str:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    name = nvml.nvmlDeviceGetName(handle)
    found = nvml.nvmlDeviceGetMemoryInfo(handle)
    shown = name.decode() if isinstance(name, bytes) else str(name)
    return f"cuda:{index} {shown}, {found.free / GIB:.1f} of {found.total / GIB:.1f} GiB free"


def _by_nvidia_smi() -> Finding:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ok("gpu", "none: models run on the CPU")
    command = [program, "--query-gpu=index,name,memory.free,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=NVIDIA_SMI_SECONDS_MAX, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return warn("gpu", f"nvidia-smi fails: {error}", "check the NVIDIA driver")
    return _gpu_finding([f"cuda:{line}" for line in done.stdout.splitlines() if line])


def _gpu_finding(cards: list[str]) -> Finding:
    return ok("gpu", "; ".join(cards)) if cards else ok("gpu", "none: models run on the CPU")


def port_is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
