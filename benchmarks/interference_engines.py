"""The engines that `interference` starts, as a configuration: all of them on all cores, our log in their schedulers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import step_log, vllm_baselines
from benchmarks.anonymous import argument
from benchmarks.form import Plain
from benchmarks.interference_arms import Setting
from benchmarks.interference_rig import Folders
from engine import embedded
from engine.vllm.arguments import value_of

SLOTS = 64
CPU_FLAGS = (
    *("--dtype", "bfloat16", "--max-model-len", "2048", "--max-num-seqs", str(SLOTS)),
    *("--max-num-batched-tokens", "2048", "--block-size", "32", "--kv-cache-memory-bytes", str(2**30)),
    "--enforce-eager",
)
"""On a CPU; on a GPU nothing is set that the person did not set."""

SCHEDULERS = {
    "cpu": "benchmarks.vllm_measured.MeasuredScheduler",
    "cuda": "benchmarks.vllm_measured.MeasuredAsyncScheduler",
}


@dataclass(frozen=True, slots=True)
class Engines:
    """`slots` is how many requests the chat engine runs at once, None where its default is not known here."""

    config: str
    models: Sequence[str]
    embeddings: str | None
    slots: int | None
    facts: Mapping[str, Plain]


def of(model: str, arms: Mapping[str, Setting], folders: Folders, engine_args: Sequence[str], device: str) -> Engines:
    """The embeddings engine is there only for arms that use it: it takes memory."""
    flags = tuple(engine_args) or (CPU_FLAGS if device == "cpu" else ())
    scheduler = ("--scheduler-cls", SCHEDULERS["cpu" if device == "cpu" else "cuda"])
    config = _model(model, "generate", (*flags, *scheduler), _environment(folders.chat, device), online_first=True)
    embeds = any(setting.beside == "embeddings" for setting in arms.values())
    if embeds:
        config += _model(embedded.EMBEDDING.id, "pooling", scheduler, _environment(folders.embeddings, device))
    slots = value_of(flags, "max-num-seqs")
    cores = vllm_baselines.core_binding(device, sorted(os.sched_getaffinity(0)))
    return Engines(
        config=config,
        models=[model, *([embedded.EMBEDDING.id] if embeds else [])],
        embeddings=embedded.EMBEDDING.id if embeds else None,
        slots=int(slots) if slots else None,
        facts={
            "model": argument(model),
            "engine_flags": " ".join(argument(flag) for flag in flags) or "vLLM's defaults",
            "cores_bound": cores.get("VLLM_CPU_OMP_THREADS_BIND", "not bound"),
        },
    )


def _environment(steps: Path, device: str) -> dict[str, str]:
    cores = vllm_baselines.core_binding(device, sorted(os.sched_getaffinity(0)))
    return {step_log.FOLDER_VARIABLE: str(steps), **cores}


def _model(
    model: str, kind: str, flags: Sequence[str], environment: Mapping[str, str], *, online_first: bool = False
) -> str:
    shown = ", ".join(f'"{flag}"' for flag in flags)
    variables = ", ".join(f'{name} = "{value}"' for name, value in environment.items())
    return (
        f'[[models]]\nid = "{model}"\nkind = "{kind}"\nonline_first = {str(online_first).lower()}\n'
        f"engine_flags = [{shown}]\nenvironment = {{ {variables} }}\n"
    )
