"""How a host is started: vLLM's command line and the environment, as pure functions of the spec."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from engine.protocol import EngineStartError, ModelKind
from engine.vllm.arguments import names_in, to_flags
from engine.vllm.plugin import ENGINE_MARK
from engine.vllm.spec import VllmSpec

CPU_BLOCK_TOKENS = 32
"""vLLM's default on a CPU is 128: shared prefixes below that never hit."""

KV_SPACE_VARIABLE = "VLLM_CPU_KVCACHE_SPACE"
HUB_ARGUMENTS = frozenset({"tokenizer", "lora-modules", "speculative-config", "hf-config-path", "load-format"})
"""With one of these a local model may still need something from the hub."""


SCHEDULERS = {
    "cpu": "engine.vllm.online_first.scheduler.OnlineFirstScheduler",
    "cuda": "engine.vllm.online_first.scheduler.OnlineFirstAsyncScheduler",
}
"""vLLM schedules asynchronously on CUDA and never on a CPU: each has its own class."""


def flags(spec: VllmSpec, kind: ModelKind, *, channel: Path | None = None) -> list[str]:
    """The user's flags behind ours: where both name the same thing the user's counts. `channel` is the file that
    carries orders to the online-first scheduler, None without one."""
    given = to_flags(spec.engine_args)
    named = names_in(given)
    ours: dict[str, list[str]] = {
        "scheduling-policy": ["priority"],
        "enable-prompt-tokens-details": [],
    }
    if spec.kind is not None:
        ours["runner"] = [spec.kind.value]
    if spec.device == "cpu":
        ours["enforce-eager"] = []
        if kind is ModelKind.GENERATE:
            ours["block-size"] = [str(CPU_BLOCK_TOKENS)]
    if channel is not None and kind is ModelKind.GENERATE:
        ours["scheduler-cls"] = [SCHEDULERS["cpu" if spec.device == "cpu" else "cuda"]]
        ours["additional-config"] = [
            json.dumps({"nightbatch": {"channel": str(channel), "online_slots": spec.online_slots}})
        ]
    if spec.sleep_level is not None:
        ours["enable-sleep-mode"] = []
    if spec.kv_cache_bytes is not None:
        ours["kv-cache-memory-bytes"] = [str(spec.kv_cache_bytes)]
    if spec.device_memory_share is not None:
        ours["gpu-memory-utilization"] = [f"{spec.device_memory_share:.4f}"]
    chosen = [part for name, value in ours.items() if name not in named for part in (f"--{name}", *value)]
    return [*chosen, *given]


def environment(
    spec: VllmSpec, folder: Path, base: Mapping[str, str], preload: Iterable[Path], *, local: bool
) -> dict[str, str]:
    """The host's environment: the server's own, plus what an engine needs. Raises EngineStartError for a variable that
    would override every engine's own memory."""
    if base.get(KV_SPACE_VARIABLE):
        raise EngineStartError(
            f"{KV_SPACE_VARIABLE} is set: vLLM would give every engine that much KV cache instead of its own share; "
            "unset it and set kv_cache_memory_bytes in the model's engine_args"
        )
    found = dict(base)
    found.update(
        {
            "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "PYTHONUNBUFFERED": "1",
            ENGINE_MARK: f"{folder.resolve()}:{spec.name}",
        }
    )
    found.setdefault("TOKENIZERS_PARALLELISM", "false")
    if local and not HUB_ARGUMENTS & names_in(to_flags(spec.engine_args)):
        found.setdefault("HF_HUB_OFFLINE", "1")
    if spec.devices is not None:
        found["CUDA_VISIBLE_DEVICES"] = spec.devices
    if spec.device == "cpu":
        if spec.cores is not None:
            found.setdefault("VLLM_CPU_OMP_THREADS_BIND", spec.cores)
        found["LD_PRELOAD"] = _joined(base.get("LD_PRELOAD", ""), preload)
        if not found["LD_PRELOAD"]:
            del found["LD_PRELOAD"]
    found.update(spec.environment)
    return found


def _joined(already: str, libraries: Iterable[Path]) -> str:
    """The libraries before what is preloaded already, each kind once (two OpenMP runtimes in one process deadlock)."""
    parts = [part for part in already.split(":") if part]
    for library in libraries:
        kind = library.name.split(".", 1)[0].rstrip("0123456789")
        has_openmp = "omp" in kind and "omp" in already
        if not has_openmp and not any(kind in part for part in parts):
            parts.insert(0, str(library))
    return ":".join(parts)


def preloads(
    prefix: Path = Path(sys.prefix), system: Iterable[Path] = (Path("/usr/lib"), Path("/usr/local/lib"))
) -> list[Path]:
    """Intel's OpenMP and tcmalloc, where they are installed: both make CPU engines faster."""
    found = []
    openmp = prefix / "lib" / "libiomp5.so"
    if openmp.is_file():
        found.append(openmp)
    for folder in system:
        candidates = sorted([*folder.glob("libtcmalloc*.so*"), *folder.glob("*/libtcmalloc*.so*")])
        if candidates:
            found.append(candidates[0])
            break
    return found
