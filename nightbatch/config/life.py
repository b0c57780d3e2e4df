"""`release`, `hours` and `turns` of a model: when its engines are there, checked against the windows and each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nightbatch.config.refusals import AtKey
from scheduler.facts.hours import Hours

if TYPE_CHECKING:
    from nightbatch.config.model import ModelConfig
    from nightbatch.config.windows import WindowsSection

LIFE_KEYS = ("release", "hours", "turns", "drain_seconds", "sleep_level")


def hours_of(model: ModelConfig) -> Hours:
    """When it may be there. What takes turns and says nothing is there at any hour."""
    if model.hours is not None:
        return Hours(model.hours)
    if model.release == "never" or model.turns is not None:
        return Hours.ALWAYS
    return Hours.OFF_PEAK


def check_life(model: ModelConfig) -> None:
    """What can be seen of one model alone. Raises ValueError."""
    given = [key for key in LIFE_KEYS if key in model.model_fields_set]
    if model.engine == "remote" and given:
        raise ValueError(f"{given[0]} is for engines that this server starts; an upstream comes and goes by itself")
    if model.release == "never":
        others = [key for key in given if key != "release"]
        if others:
            raise ValueError(f'{others[0]} needs release = "stop" (or "sleep" on CUDA): this model is never released')
    elif hours_of(model) is Hours.ALWAYS and model.turns is None:
        raise ValueError(
            f'hours = "always" leaves nothing to release = "{model.release}": give it hours = "off-peak" or "peak", '
            "or turns"
        )
    if model.release != "sleep" and "sleep_level" in given:
        raise ValueError('sleep_level needs release = "sleep"')
    if model.release == "sleep" and model.device == "cpu":
        raise ValueError('release = "sleep" needs CUDA; on a CPU use "stop"')


def check_lives(models: Sequence[ModelConfig], windows: WindowsSection) -> None:
    """What can be seen only of all together. Raises AtKey."""
    members: dict[str, list[int]] = {}
    for place, model in enumerate(models):
        if model.release != "never" and hours_of(model) is not Hours.ALWAYS and not windows.off_peak:
            raise AtKey(
                ("models", place, "release"),
                f"{model.name} is there by the clock, and no [[windows.off_peak]] says when that is",
            )
        if model.turns is not None:
            members.setdefault(model.turns, []).append(place)
    for group, places in members.items():
        if len(places) == 1:
            raise AtKey(
                ("models", places[0], "turns"),
                f"{models[places[0]].name} is alone in '{group}': give the same turns to those it takes turns with",
            )
