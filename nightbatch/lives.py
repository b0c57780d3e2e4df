"""From the configuration to the lives of engines: which of them come and go, and by what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nightbatch.config import Config, ModelConfig
from nightbatch.config.life import hours_of
from nightbatch.engine_names import EngineNames
from scheduler.facts.hours import Hours
from scheduler.policy.life import Life, Lives, Release, TurnLimits

HOURS_IN_WORDS = {Hours.OFF_PEAK: "in off-peak windows only", Hours.PEAK: "outside off-peak windows only"}
RELEASE_IN_WORDS = {Release.SLEEP: "sleeps", Release.STOP: "stops"}


def name_engines(models: Sequence[ModelConfig], names: EngineNames) -> dict[str, Sequence[str]]:
    """The names of the engines of each model that this server starts: vLLM's first, since they are planned first."""
    started = sorted((model for model in models if model.engine != "remote"), key=lambda model: model.engine != "vllm")
    return {str(model.name): names.of_model(str(model.name), model.replicas) for model in started}


def lives_of(models: Sequence[ModelConfig], named: Mapping[str, Sequence[str]]) -> tuple[Life, ...]:
    """Of the models that are released."""
    return tuple(
        Life(
            model=str(model.name),
            engines=tuple(named[str(model.name)]),
            hours=hours_of(model),
            release=Release(model.release),
            turns=model.turns,
            drain_seconds=model.drain_seconds,
        )
        for model in models
        if model.release != "never"
    )


def lives(config: Config, models: tuple[Life, ...]) -> Lives:
    limits = TurnLimits(seconds_max=60.0 * config.scheduler.turn_minutes)
    return Lives(models, config.windows.calendar(), limits)


def describe(life: Life) -> str:
    """For people, behind what the model is served by."""
    hours = [HOURS_IN_WORDS[life.hours]] if life.hours is not Hours.ALWAYS else []
    turns = [f"in turns with the others of '{life.turns}'"] if life.turns is not None else []
    return f"{', '.join([*hours, *turns])}; then it {RELEASE_IN_WORDS[life.release]}"
