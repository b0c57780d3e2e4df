"""From the configuration to engines: which ones, on which device, with how much of its memory and which cores."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine.backoff import ENGINE_BACKOFF, REMOTE_BACKOFF, BackoffPolicy
from engine.embedded import EMBEDDED, EmbeddedError, EmbeddedModel
from engine.machine import NoSuchDevice, has_cuda_build, read_cards, read_cores, read_cpu_memory
from engine.memory import MemoryRefused
from engine.processes import end_orphans
from engine.protocol import Engine, ModelKind
from engine.remote import RemoteEngine
from engine.simulated import PROFILES, SimulatedEngine, SimulatedFaults, simulated_model
from engine.slo import Slo
from engine.start_times import StartTimes
from engine.supervisor import Supervised
from engine.vllm import VllmEngine
from engine.vllm.arguments import UnknownArgument
from engine.vllm.flags import known_options
from engine.vllm.online_first.policy import orders_for
from engine.vllm.planning import Planned, Wanted, plan
from engine.vllm.spec import VllmSpec
from nightbatch.config import Config, ConfigError, ModelConfig
from nightbatch.engine_names import EngineNames
from nightbatch.lives import describe, lives_of, name_engines
from nightbatch.preparing import prepare_with_progress
from scheduler.policy.life import Life, apart

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Fleet:
    """The engines of a server, none started. `models` and `plan` are lines for people: what is served by what, and how
    memory and cores are split. `ended` tells of leftovers of a former server that were ended. `devices` says which of
    this machine's devices each engine uses; upstreams use none. `lives` are those that come and go while it runs, and
    `start_times` knows how long they take. `slos` is what each engine's online requests are promised."""

    engines: Sequence[Engine]
    models: Sequence[str] = ()
    plan: Sequence[str] = ()
    ended: Sequence[str] = ()
    devices: Mapping[str, frozenset[str]] = field(default_factory=dict)
    lives: tuple[Life, ...] = ()
    slos: Mapping[str, Slo] = field(default_factory=dict)
    start_times: StartTimes = field(default_factory=StartTimes)


async def build_fleet(
    config: Config, *, folder: Path, environment: Mapping[str, str], now: Callable[[], float]
) -> Fleet:
    """Ends what a former server of this data folder left behind, prepares embedded models, splits memory and cores.

    Raises ConfigError for what cannot be served as configured; the message holds the arithmetic.
    """
    ended = await asyncio.to_thread(end_orphans, folder)
    start_times = await asyncio.to_thread(StartTimes.load, folder)
    names = EngineNames()
    named = name_engines(config.served, names)
    lives = lives_of(config.served, named)
    when = {life.model: f", {describe(life)}" for life in lives}
    engines: list[Engine] = []
    models: list[str] = []
    planned = Planned((), ())
    local = [model for model in config.served if model.engine == "vllm"]
    if local:
        planned = await asyncio.to_thread(plan_local, local, named, config.online.online_slots)
        models += [
            f"{spec.model_id}: vllm on {spec.device}, engine {spec.name}{when.get(spec.model_id, '')}"
            for spec in planned.specs
        ]
        engines += [VllmEngine(spec, folder=folder, now=now) for spec in planned.specs]
    slos = {spec.name: spec.slo for spec in planned.specs}
    for model in config.served:
        before = len(engines)
        if model.engine == "simulated":
            engines += simulated_engines(model, named[str(model.name)], now, config.online.online_slots)
            profile = f"simulated, profile {model.profile}, {model.time_scale:g} x real time"
            models.append(f"{model.name}: {profile}{when.get(str(model.name), '')}")
        elif model.engine == "remote":
            engines += remote_engines(model, environment, names, now)
            models += [f"{model.name or 'whatever it serves'}: upstream {url}" for url in model.upstreams]
        slos |= {engine.name: model.slo.promised() for engine in engines[before:]}
    supervised = tuple(Supervised(engine, _policy(engine), now=now, start_times=start_times) for engine in engines)
    devices = {spec.name: devices_of(spec) for spec in planned.specs}
    devices |= {engine.name: frozenset({engine.name}) for engine in engines if isinstance(engine, SimulatedEngine)}
    return Fleet(supervised, tuple(models), planned.lines, tuple(ended), devices, lives, slos, start_times)


def devices_of(spec: VllmSpec) -> frozenset[str]:
    """All CPU engines count as one device: even those bound to cores of their own share memory and caches."""
    if spec.devices is None:
        return frozenset({spec.device})
    return frozenset(f"cuda:{number}" for number in spec.devices.split(","))


def _policy(engine: Engine) -> BackoffPolicy:
    return REMOTE_BACKOFF if isinstance(engine, RemoteEngine) else ENGINE_BACKOFF


def plan_local(models: Sequence[ModelConfig], named: Mapping[str, Sequence[str]], online_slots: int = 0) -> Planned:
    """Where each vLLM engine runs and what it gets, under the names of `named`. Blocks: reads the machine, prepares
    embedded models."""
    never_together = apart(lives_of(models, named))
    wanted = [wish for model in models for wish in _wishes(model, named[str(model.name)], never_together, online_slots)]
    known = known_options() if any(wish.engine_args for wish in wanted) else None
    cpu, cards, cores = read_cpu_memory(), read_cards(), read_cores()
    try:
        planned = plan(wanted, cpu=cpu, cards=cards, cores=cores, cuda=has_cuda_build(), known=known)
    except (MemoryRefused, NoSuchDevice, UnknownArgument) as error:
        raise ConfigError([str(error)]) from None
    on_cpu = {spec.model_id for spec in planned.specs if spec.device == "cpu"}
    sleepless = [
        f'models: {model.name}: release = "sleep" needs CUDA, and it runs on the CPU: use "stop"'
        for model in models
        if model.release == "sleep" and model.name in on_cpu
    ]
    if sleepless:
        raise ConfigError(sleepless)
    return planned


def _wishes(
    model: ModelConfig, engines: Sequence[str], never_together: Mapping[str, frozenset[str]], online_slots: int
) -> list[Wanted]:
    embedded = embedded_of(model)
    source, kind = model.weights, ModelKind(model.kind) if model.kind else None
    if embedded is not None:
        try:
            source, kind = str(prepare_with_progress(embedded)), kind or embedded.kind
        except EmbeddedError as error:
            raise ConfigError([str(error)]) from None
    return [
        Wanted(
            name=name,
            model_id=str(model.name),
            source=source,
            kind=kind,
            engine_args=list(model.engine_flags) or model.engine_args,
            device=model.device,
            memory_share=model.memory_share,
            kv_cache_bytes=model.kv_cache_mib * MIB if model.kv_cache_mib else None,
            environment=model.environment,
            online_first=model.online_first,
            online_slots=online_slots,
            slo=model.slo.promised(),
            led=model.release != "never",
            apart=never_together.get(name, frozenset()),
            sleep_level=model.sleep_level if model.release == "sleep" else None,
        )
        for name in engines
    ]


def embedded_of(model: ModelConfig) -> EmbeddedModel | None:
    """The default model that this entry names, unless a folder of that name lies in the way."""
    found = EMBEDDED.get(model.weights.lower())
    return None if found is None or Path(model.weights).is_dir() else found


def remote_engines(
    model: ModelConfig, environment: Mapping[str, str], names: EngineNames, now: Callable[[], float]
) -> list[RemoteEngine]:
    api_key = None
    if model.api_key_env:
        api_key = environment.get(model.api_key_env)
        if not api_key:
            raise ConfigError([f"models: api_key_env: the variable {model.api_key_env} is not set"])
    return [
        RemoteEngine(
            names.of_url(url),
            url,
            api_key=api_key,
            models=[model.id] if model.id else None,
            kind=ModelKind(model.kind) if model.kind else None,
            send_priority=model.send_priority,
            now=now,
        )
        for url in model.upstreams
    ]


def simulated_engines(
    model: ModelConfig, names: Sequence[str], now: Callable[[], float], online_slots: int = 0
) -> list[SimulatedEngine]:
    profile = PROFILES.get(model.profile or "")
    if profile is None:
        raise ConfigError([f"profile {model.profile!r} is not known: choose one of {', '.join(PROFILES)}"])
    try:
        faults = SimulatedFaults.of(model.faults)
    except ValueError as error:
        raise ConfigError([f"models: {model.name}: faults: {error}"]) from None
    served = [simulated_model(str(model.name), profile, ModelKind(model.kind or "generate"))]
    return [
        SimulatedEngine(
            name,
            profile,
            models=served,
            seed=model.seed + number,
            faults=faults,
            time_scale=model.time_scale,
            orders=orders_for(model.slo.promised()) if model.online_first else None,
            online_slots=online_slots,
            now=now,
        )
        for number, name in enumerate(names)
    ]
