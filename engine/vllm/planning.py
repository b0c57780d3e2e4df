"""From what a configuration asks for to specs: device, memory split and cores of all vLLM engines together.

One call plans the whole server, since engines on one device share it. Nothing is started.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from engine import memory
from engine.companies import companies
from engine.cores import Core, CoreWish, plan_cores
from engine.machine import NoSuchDevice
from engine.memory import Demand, Device
from engine.protocol import ModelKind
from engine.slo import Slo
from engine.vllm import source
from engine.vllm.arguments import UnknownArgument, check_ours, names_in, settle, to_flags, value_of
from engine.vllm.source import ModelSource, SourceError
from engine.vllm.spec import VllmSpec

_DEVICE = re.compile(r"^(?:auto|cpu|cuda(?::\d+(?:,\d+)*)?)$")
CORES_VARIABLE = "VLLM_CPU_OMP_THREADS_BIND"


@dataclass(frozen=True, slots=True)
class Wanted:
    """One engine as the configuration asks for it. `device` is `auto`, `cpu`, `cuda:0` or `cuda:0,1`.
    `online_first` None: on a CPU. One that is `led`
    comes and goes while the server runs; `apart` names the engines that are never there together with it."""

    name: str
    model_id: str
    source: str
    kind: ModelKind | None = None
    engine_args: Mapping[str, Any] | Sequence[str] = field(default_factory=dict)
    device: str = "auto"
    memory_share: float | None = None
    kv_cache_bytes: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    online_first: bool | None = None
    online_slots: int = 0
    led: bool = False
    apart: frozenset[str] = frozenset()
    sleep_level: int | None = None
    slo: Slo = field(default_factory=Slo)


@dataclass(frozen=True, slots=True)
class Planned:
    """`lines` is the arithmetic, for the first lines of the server."""

    specs: tuple[VllmSpec, ...]
    lines: tuple[str, ...]


def plan(
    wanted: Sequence[Wanted],
    *,
    cpu: Device,
    cards: Sequence[Device],
    cores: Sequence[Core],
    cuda: bool,
    known: Mapping[str, bool] | None = None,
) -> Planned:
    """`cuda` says which build of vLLM is installed, `known` its option strings (flags.known_options), None when they
    are not to be checked here. Raises UnknownArgument, MemoryRefused and NoSuchDevice."""
    for each in wanted:
        _check_arguments(each, known)
    placed = [(each, _devices(each, cards, cuda)) for each in wanted]
    found = {each.name: _inspected(each) for each in wanted}
    lines: list[str] = []
    grants: dict[str, memory.Grant] = {}
    for device in [cpu, *cards]:
        here = {each.name: (each, len(devices)) for each, devices in placed if device.name in devices}
        demands = {name: _demand(each, found[name], devices) for name, (each, devices) in here.items()}
        for company in _companies([each for each, _ in here.values()]):
            room = _room(device, [each for each, _ in here.values()], company)
            split = memory.split_memory(room, [demands[name] for name in company])
            together = () if len(company) == len(here) else (f"while {_and(company)} are there:",)
            lines += [*together, *split.lines]
            for name, grant in split.grants.items():
                grants[name] = _tighter(grants.get(name), grant)
    on_cpu = [each for each, devices in placed if devices == ("cpu",)]
    bindings: Mapping[str, str] = {}
    if on_cpu:
        core_plan = plan_cores(cores, [_core_wish(each) for each in on_cpu])
        bindings, lines = core_plan.bindings, [*lines, *core_plan.lines]
    specs = tuple(
        _spec(each, found[each.name], devices, grants[each.name], bindings.get(each.name)) for each, devices in placed
    )
    return Planned(specs, tuple(lines))


def _companies(wanted: Sequence[Wanted]) -> list[tuple[str, ...]]:
    if not wanted:
        return []
    try:
        return companies([each.name for each in wanted], {each.name: each.apart for each in wanted})
    except ValueError as error:
        raise memory.MemoryRefused(str(error)) from None


def _room(device: Device, wanted: Sequence[Wanted], company: Collection[str]) -> Device:
    """What a company has to share. What others hold now says nothing of the hours in which led engines are there: they
    wait for it then. Those that sleep meanwhile keep a little."""
    if not any(each.led and each.name in company for each in wanted):
        return device
    asleep = sum(each.sleep_level is not None and each.name not in company for each in wanted)
    if asleep and device.kind == "cuda":
        usable_bytes = int(device.total_bytes * memory.CUDA_SHARE_MAX)
        return replace(device, free_bytes=usable_bytes - asleep * memory.CUDA_ASLEEP_BYTES)
    return replace(device, free_bytes=device.total_bytes)


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _check_arguments(wanted: Wanted, known: Mapping[str, bool] | None) -> None:
    try:
        check_ours(wanted.engine_args)
        if known is not None:
            settle(to_flags(wanted.engine_args), known)
    except UnknownArgument as error:
        raise UnknownArgument(f"{wanted.name}: {error}") from None


def _devices(wanted: Wanted, cards: Sequence[Device], cuda: bool) -> tuple[str, ...]:
    """Names of the devices an engine runs on: the CPU, or one or more cards."""
    if not _DEVICE.match(wanted.device):
        raise NoSuchDevice(f"{wanted.name}: device {wanted.device!r}: write auto, cpu, cuda:0 or cuda:0,1")
    known = [card.name for card in cards]
    if wanted.device == "cpu" or (wanted.device == "auto" and not (cuda and known)):
        if cuda:
            raise NoSuchDevice(
                f"{wanted.name}: the installed vLLM is the CUDA build, which cannot serve on a CPU, and "
                f"{'no NVIDIA card is visible' if not known else 'device = cpu is set'}: nightbatch doctor says more"
            )
        return ("cpu",)
    if not cuda:
        raise NoSuchDevice(f"{wanted.name}: device {wanted.device} needs vLLM's CUDA build: nightbatch[cuda]")
    numbers = wanted.device.partition(":")[2]
    given = tuple(f"cuda:{number}" for number in numbers.split(",")) if numbers else ()
    names = given or tuple(known[: _ranks(wanted)])
    missing = [name for name in names if name not in known]
    if missing or not names:
        raise NoSuchDevice(f"{wanted.name}: no device {', '.join(missing) or wanted.device}; here: {', '.join(known)}")
    return names


def _ranks(wanted: Wanted) -> int:
    """How many devices (or core sets) an engine's weights are spread over."""
    flags = to_flags(wanted.engine_args)
    ranks = 1
    for name, short in (("tensor-parallel-size", "-tp"), ("pipeline-parallel-size", "-pp")):
        value = value_of(flags, name)
        if value is None and short in flags[:-1]:
            value = flags[flags.index(short) + 1]
        ranks *= int(value) if value and value.isdigit() else 1
    return max(1, ranks)


def _demand(wanted: Wanted, found: ModelSource | None, devices: int) -> Demand:
    config = found.config if found else None
    flags = to_flags(wanted.engine_args)
    kind = wanted.kind or source.kind_of(config)
    parts = max(devices, _ranks(wanted))
    per_token = source.kv_token_bytes(config)
    length = value_of(flags, "max-model-len")
    given = value_of(flags, "kv-cache-memory-bytes")
    share = value_of(flags, "gpu-memory-utilization")
    return Demand(
        engine=wanted.name,
        pooling=kind is ModelKind.POOLING,
        weights_bytes=found.weights_bytes // parts if found and found.weights_bytes else None,
        share=float(share) if share else wanted.memory_share,
        kv_bytes=int(given) if given and given.isdigit() else wanted.kv_cache_bytes,
        kv_token_bytes=per_token // parts if per_token else None,
        context_tokens=int(length) if length and length.isdigit() else source.context_tokens(config),
    )


def _inspected(wanted: Wanted) -> ModelSource | None:
    """What is broken shows when the engine starts; the plan goes on without its size."""
    try:
        return source.inspect(wanted.source)
    except SourceError:
        return None


def _tighter(before: memory.Grant | None, grant: memory.Grant) -> memory.Grant:
    """An engine on several cards gets on each what the fullest of them can give."""
    if before is None:
        return grant
    caches = [cache for cache in (before.kv_bytes, grant.kv_bytes) if cache is not None]
    shares = [share for share in (before.device_share, grant.device_share) if share is not None]
    totals = [total for total in (before.total_bytes, grant.total_bytes) if total is not None]
    return replace(
        grant,
        kv_bytes=min(caches, default=None),
        device_share=min(shares, default=None),
        total_bytes=min(totals, default=None),
    )


def _core_wish(wanted: Wanted) -> CoreWish:
    return CoreWish(wanted.name, _ranks(wanted), wanted.environment.get(CORES_VARIABLE))


def _online_first(wanted: Wanted, found: ModelSource | None, *, on_cpu: bool) -> bool:
    """Unasked on CPUs alone: on CUDA its gain has not been measured. Only a model that generates has steps to bound."""
    kind = wanted.kind or source.kind_of(found.config if found else None)
    return kind is ModelKind.GENERATE and (on_cpu if wanted.online_first is None else wanted.online_first)


def _spec(
    wanted: Wanted, found: ModelSource | None, devices: tuple[str, ...], grant: memory.Grant, cores: str | None
) -> VllmSpec:
    on_cpu = devices == ("cpu",)
    named = names_in(to_flags(wanted.engine_args))
    return VllmSpec(
        name=wanted.name,
        model_id=wanted.model_id,
        source=wanted.source,
        kind=wanted.kind,
        engine_args=wanted.engine_args,
        device="cpu" if on_cpu else "cuda",
        devices=None if on_cpu else ",".join(name.removeprefix("cuda:") for name in devices),
        kv_cache_bytes=None if "gpu-memory-utilization" in named else grant.kv_bytes,
        device_memory_share=grant.device_share,
        cores=cores,
        environment=wanted.environment,
        online_first=_online_first(wanted, found, on_cpu=on_cpu),
        online_slots=wanted.online_slots,
        memory_bytes=grant.total_bytes,
        sleep_level=None if on_cpu else wanted.sleep_level,
        slo=wanted.slo,
    )
