"""From the configuration to engines: which ones, on which device, with how much of its memory and which cores."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine.processes import end_orphans
from engine.protocol import Engine, ModelKind
from engine.simulated import PROFILES, SimulatedEngine, SimulatedFaults, simulated_model
from nightbatch.config import Config, ConfigError, ModelConfig


@dataclass(frozen=True, slots=True)
class Fleet:
    """The engines of a server, and what a person should know of them before they start."""

    engines: Sequence[Engine]
    lines: Sequence[str] = field(default=())


async def build_fleet(
    config: Config, *, folder: Path, environment: Mapping[str, str], now: Callable[[], float]
) -> Fleet:
    """Nothing is started yet. Ends engine processes that a former server of this data folder left behind."""
    engines: list[Engine] = []
    lines = list(await asyncio.to_thread(end_orphans, folder))
    for model in config.served:
        if model.engine == "simulated":
            engines += _simulated(model, now)
    return Fleet(tuple(engines), tuple(lines))


def _simulated(model: ModelConfig, now: Callable[[], float]) -> list[Engine]:
    profile = PROFILES.get(model.profile or "")
    if profile is None:
        raise ConfigError([f"profile {model.profile!r} is not known: choose one of {', '.join(PROFILES)}"])
    try:
        faults = SimulatedFaults(**model.faults)
    except TypeError as error:
        raise ConfigError([f"models: {model.name}: faults: {error}"]) from None
    kind = ModelKind(model.kind or "generate")
    return [
        SimulatedEngine(
            f"{model.name}-{number}" if model.replicas > 1 else str(model.name),
            profile,
            models=[simulated_model(str(model.name), profile, kind)],
            seed=model.seed + number,
            faults=faults,
            time_scale=model.time_scale,
            now=now,
        )
        for number in range(model.replicas)
    ]
