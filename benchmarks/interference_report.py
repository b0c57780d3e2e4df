"""The table of `interference`: per arm what was measured, and above it the ratios and shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from benchmarks import interference_figures
from benchmarks.form import Arm, Figure, Plain, Report
from benchmarks.interference_arms import CEILINGS, SHARE_OF, Setting
from benchmarks.interference_figures import Window, all_tokens, output_tokens

AMOUNTS: Mapping[str, Callable[[Window], float]] = {
    "embeddings": lambda one: one.embedded_tokens,
    "transfers": lambda one: one.moved_mib,
}
"""What counts as done where the chat engine's batch is held."""


def report_of(
    arms: Mapping[str, Setting],
    measured: Mapping[str, Sequence[Window]],
    facts: Mapping[str, Plain],
    notes: Sequence[str],
) -> Report:
    ceiling = interference_figures.better(measured, CEILINGS)
    figures: dict[str, Figure] = {}
    shown = []
    for name, setting in arms.items():
        windows = measured[name]
        own = {**interference_figures.latencies(windows), **_rates(setting, windows)}
        if setting.online and name != "online_alone":
            figures |= _headline(setting, measured, ceiling)
        if setting.online and setting.beside == "batch":
            own["output_tokens_share"] = interference_figures.share(windows, measured[ceiling], output_tokens)
        shown.append(Arm(name, {**facts, **setting.facts()}, own))
    return Report(figures=figures, arms=shown, notes=[*notes, f"The ceiling is {ceiling}."])


def _headline(setting: Setting, measured: Mapping[str, Sequence[Window]], ceiling: str) -> dict[str, Figure]:
    name, windows = setting.name, measured[setting.name]
    found = {}
    presence = interference_figures.latencies(windows).get("presence")
    if presence is not None:
        found[f"{name}_presence"] = presence
    found |= interference_figures.ratios(name, windows, measured["online_alone"])
    if setting.beside == "batch":
        found[f"{name}_ceiling_share"] = interference_figures.share(windows, measured[ceiling], all_tokens)
    elif setting.beside in AMOUNTS:
        alone, amount = SHARE_OF[setting.beside], AMOUNTS[setting.beside]
        if interference_figures.rate(measured.get(alone, ()), amount):
            found[f"{name}_ceiling_share"] = interference_figures.share(windows, measured[alone], amount)
    return found


def _rates(setting: Setting, windows: Sequence[Window]) -> dict[str, Figure]:
    rate = interference_figures.rate_figure
    if setting.beside == "embeddings":
        return {"embedded_tokens_per_s": rate(windows, lambda one: one.embedded_tokens, "prompt tokens/s")}
    if setting.beside == "transfers":
        return {"moved_mib_per_s": rate(windows, lambda one: one.moved_mib, "MiB/s")}
    if setting.beside == "nothing":
        return {}
    return {
        "batch_tokens_per_s": rate(windows, output_tokens, "output tokens/s"),
        "batch_prompt_tokens_per_s": rate(windows, lambda one: one.batch_prompt, "prompt tokens/s"),
    }
