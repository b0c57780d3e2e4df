"""How a device's memory is split between the models on it: pure arithmetic that prints itself.

vLLM alone takes 0.92 of a GPU (or of the machine's memory), so two models on one device would not start. Here every
engine gets explicit KV bytes, and what cannot fit is refused before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

MIB = 1024 * 1024
GIB = 1024 * MIB

CUDA_SHARE_MAX = 0.92
CPU_AVAILABLE_SHARE_MAX = 0.9

CPU_PROCESS_BYTES = 2 * GIB
"""Host, EngineCore and Worker without weights and KV cache, measured on SmolLM2-135M (1.9 GiB)."""

CUDA_PROCESS_BYTES = 3 * GIB
"""CUDA context, activations and graphs of one engine. Assumed, not measured; `kv_cache_mib` overrides the outcome."""

CUDA_ASLEEP_BYTES = 1 * GIB
"""What an engine that sleeps still holds of its card: its CUDA context. Assumed, not measured."""

CPU_KV_BYTES = 1 * GIB
"""A CPU engine's KV cache when nothing is said: more would only be taken away from the machine's other work."""

POOLING_KV_BYTES = 64 * MIB
"""An encoder has no KV cache; the figure only keeps vLLM from claiming a share of the machine."""

KV_BYTES_MIN = 128 * MIB


class MemoryRefused(Exception):
    """The models do not fit; the message is the arithmetic and what to change."""


@dataclass(frozen=True, slots=True)
class Device:
    """`kind` decides the rules; `free_bytes` is what nothing else uses now."""

    name: str
    kind: Literal["cpu", "cuda"]
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Demand:
    """What one engine needs of one device. None means unknown (a model that has not been downloaded) or not given.

    `weights_bytes` and `kv_token_bytes` are those of this device: with tensor parallelism a part of the whole.
    """

    engine: str
    pooling: bool = False
    weights_bytes: int | None = None
    share: float | None = None
    kv_bytes: int | None = None
    kv_token_bytes: int | None = None
    context_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """`kv_bytes` None: the weights are unknown, vLLM sizes the cache itself within `device_share`. `total_bytes` is all
    that the engine takes, None where that is unknown."""

    engine: str
    kv_bytes: int | None
    device_share: float | None
    total_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    grants: Mapping[str, Grant]
    lines: tuple[str, ...]


def split_memory(device: Device, demands: Sequence[Demand]) -> MemoryPlan:
    """Explicit wishes first, the rest is divided evenly. Raises MemoryRefused."""
    usable = _usable(device)
    caches = _kv_bytes(device, demands, usable)
    used = sum(_fixed(device, demand) + caches[demand.engine] for demand in demands)
    lines = _arithmetic(device, demands, caches, usable, used)
    problems = _problems(device, demands, caches, usable, used)
    if problems:
        raise MemoryRefused("\n".join([*lines, *problems]))
    grants = {demand.engine: _grant(device, demand, caches[demand.engine]) for demand in demands}
    return MemoryPlan(grants, tuple(lines))


def kv_floor_bytes(demand: Demand) -> int:
    """The least that vLLM starts with: one request of full context, where that can be known."""
    if demand.pooling:
        return 0
    if demand.kv_token_bytes is None or demand.context_tokens is None:
        return KV_BYTES_MIN
    return demand.kv_token_bytes * demand.context_tokens


def _usable(device: Device) -> int:
    if device.kind == "cpu":
        return int(device.free_bytes * CPU_AVAILABLE_SHARE_MAX)
    return min(device.free_bytes, int(device.total_bytes * CUDA_SHARE_MAX))


def _fixed(device: Device, demand: Demand) -> int:
    """What an engine takes before any KV cache."""
    process = CPU_PROCESS_BYTES if device.kind == "cpu" else CUDA_PROCESS_BYTES
    return process + (demand.weights_bytes or 0)


def _kv_bytes(device: Device, demands: Sequence[Demand], usable: int) -> dict[str, int]:
    caches = {demand.engine: wish for demand in demands if (wish := _wished(device, demand)) is not None}
    open_demands = [demand for demand in demands if demand.engine not in caches]
    left = usable - sum(caches.values()) - sum(_fixed(device, demand) for demand in demands)
    part = max(0, left) // max(1, len(open_demands))
    for demand in open_demands:
        if device.kind == "cpu":
            part = min(part, max(CPU_KV_BYTES, kv_floor_bytes(demand)))
        caches[demand.engine] = part
    return caches


def _wished(device: Device, demand: Demand) -> int | None:
    """What was asked for, in KV bytes; None when the engine takes its part of what is left."""
    if demand.kv_bytes is not None:
        return demand.kv_bytes
    if demand.share is not None:
        return int(device.total_bytes * demand.share) - _fixed(device, demand)
    return POOLING_KV_BYTES if demand.pooling else None


def _grant(device: Device, demand: Demand, cache: int) -> Grant:
    total = None if demand.weights_bytes is None else _fixed(device, demand) + cache
    if device.kind == "cpu":
        return Grant(demand.engine, cache, None, total)
    share = min(1.0, (_fixed(device, demand) + cache) / device.total_bytes)
    known = demand.weights_bytes is not None or demand.kv_bytes is not None
    return Grant(demand.engine, cache if known else None, round(share, 4), total)


def _arithmetic(
    device: Device, demands: Sequence[Demand], caches: Mapping[str, int], usable: int, used: int
) -> list[str]:
    process = _fixed(device, Demand(""))
    lines = [
        f"memory of {device.name}: {_gib(device.total_bytes)}, free {_gib(device.free_bytes)}, to use {_gib(usable)}"
    ]
    for demand in demands:
        cache = caches[demand.engine]
        weights = "weights unknown" if demand.weights_bytes is None else f"weights {_gib(demand.weights_bytes)}"
        tokens = f" ({cache // demand.kv_token_bytes:,} tokens)" if demand.kv_token_bytes and not demand.pooling else ""
        total = _gib(_fixed(device, demand) + cache)
        lines.append(
            f"  {demand.engine}: {weights} + process {_gib(process)} + KV cache {_gib(cache)}{tokens}: {total}"
        )
    lines.append(f"  sum {_gib(used)}, left {_gib(usable - used)}")
    return lines


def _problems(
    device: Device, demands: Sequence[Demand], caches: Mapping[str, int], usable: int, used: int
) -> list[str]:
    problems = []
    if used > usable:
        problems.append(
            f"{_gib(used - usable)} too much for {device.name}: lower memory_share or kv_cache_mib, "
            "serve fewer models on it, or move one to another device"
        )
    for demand in demands:
        floor = kv_floor_bytes(demand)
        if caches[demand.engine] < floor:
            context = f" (one request of {demand.context_tokens:,} tokens)" if demand.context_tokens else ""
            problems.append(
                f"{demand.engine} gets {_gib(caches[demand.engine])} of KV cache and needs {_gib(floor)}{context}: "
                "give it more of the device, or a shorter context with engine_args.max_model_len"
            )
    return problems


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"
