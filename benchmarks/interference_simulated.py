"""The policies of `interference` on the simulated presets, in virtual time: a CPU, where every decode costs, and a GPU,
where prompts do.

Nothing here depends on the machine that runs it: the same command gives the same figures. They show what a policy does
to a device of that kind, not how fast any device is. Online requests come as in the Azure traces; each arm meets the
same ones. The ratios compare with the arm in which there is no batch.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from benchmarks import interference_figures, interference_plot, simulated_load
from benchmarks.form import Arm, CouldNotMeasure, Figure, Options, Report, run
from benchmarks.interference_figures import Window
from benchmarks.simulated_arms import ALONE, ARMS, CEILINGS, Play, Setting
from benchmarks.simulated_load import LOADS, OnlineRequest

DESCRIPTION = "The scheduling policies on simulated devices in virtual time: online latency and batch throughput."
PRESENCE = 0.275
TRACES = ("code", "conv")


@dataclass(frozen=True, slots=True)
class Length:
    """Virtual time of one arm: `windows` of `seconds`."""

    windows: int
    seconds: float


LENGTHS = {"cpu-135m": Length(24, 40.0), "gpu-8b": Length(24, 20.0)}
LENGTHS_QUICK = {"cpu-135m": Length(10, 30.0), "gpu-8b": Length(10, 6.0)}


def key_of(preset: str) -> str:
    """What figures and arms are called by: `cpu` and `gpu`; whole names would not fit beside them."""
    return preset.partition("-")[0]


def presence_of(windows: Sequence[Window]) -> float:
    return sum(one.present_seconds for one in windows) / sum(one.seconds for one in windows)


def online_of(preset: str, trace: str, length: Length, wanted: float) -> list[OnlineRequest]:
    """Requests that are present for the wanted share of the time when they have the device to themselves."""

    def presence(online: Sequence[OnlineRequest]) -> float:
        return presence_of(Play(ALONE, preset, online, length.seconds, length.windows).run())

    found = simulated_load.online(
        LOADS[preset],
        trace,
        windows=length.windows + 1,
        seconds=length.seconds,
        wanted=wanted,
        presence=presence,
    )
    if not found:
        raise CouldNotMeasure(f"the trace {trace} has no request in {length.windows} windows of {length.seconds:g} s")
    return found


def chosen(names: str, known: Iterable[str], kind: str, needed: Sequence[str] = ()) -> list[str]:
    """Those of a comma-separated list, all for an empty one, with what ratios need."""
    known = list(known)
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if unknown := [name for name in wanted if name not in known]:
        raise CouldNotMeasure(f"no {kind} {', '.join(unknown)}; there are {', '.join(known)}")
    return [name for name in known if not wanted or name in wanted or name in needed]


def figures_of(preset: str, setting: Setting, windows: Mapping[str, Sequence[Window]]) -> dict[str, Figure]:
    """Of one arm beside the batch: presence, ratios to online alone, and the share of the ceiling."""
    name = f"{key_of(preset)}_{setting.name}"
    own = windows[setting.name]
    ceiling = windows[interference_figures.better(windows, CEILINGS)]
    return {
        f"{name}_presence": interference_figures.latencies(own)["presence"],
        **interference_figures.ratios(name, own, windows[ALONE.name]),
        f"{name}_ceiling_share": interference_figures.share(own, ceiling, interference_figures.all_tokens),
    }


def arm_of(preset: str, setting: Setting, windows: Sequence[Window]) -> Arm:
    rate = interference_figures.rate_figure(windows, interference_figures.output_tokens, "tokens/s")
    return Arm(
        f"{key_of(preset)} {setting.name}",
        setting.facts(preset),
        {**interference_figures.latencies(windows), "batch_tokens_per_s": rate},
    )


def draw(preset: str, figures: Mapping[str, Figure], plot: Path, trace: str) -> None:
    """One picture a preset, its name behind that of the file."""
    key = f"{key_of(preset)}_"
    own = {name.removeprefix(key): figure for name, figure in figures.items() if name.startswith(key)}
    path = plot.with_name(f"{plot.stem}-{preset}{plot.suffix or '.png'}")
    interference_plot.draw(own, path, f"Simulated {preset}, trace {trace}: what online requests pay for the batch")


def measure(options: Options, say: Callable[[str], None]) -> Report:
    if options.upstream or options.model:
        raise CouldNotMeasure("the devices are simulated, there is no model or upstream: see `bench interference`")
    presets = chosen(str(options.extra["preset"] or ""), LOADS, "preset")
    arms = chosen(str(options.extra["arms"] or ""), ARMS, "arm", needed=(ALONE.name, CEILINGS[0]))
    trace, wanted = str(options.extra["trace"]), float(str(options.extra["presence"]))
    plot = cast("Path | None", options.extra["plot"])
    if plot is not None:
        interference_plot.check_available()
    lengths = LENGTHS_QUICK if options.quick else LENGTHS
    figures: dict[str, Figure] = {}
    shown: list[Arm] = []
    notes = [f"Trace {trace}; virtual time, so a run repeats to the last digit."]
    with ProcessPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
        for preset in presets:
            length = lengths[preset]
            online = online_of(preset, trace, length, wanted)
            say(f"{preset}: {len(online)} online requests in {length.windows} windows of {length.seconds:g} s")
            plays = [Play(ARMS[name], preset, online, length.seconds, length.windows) for name in arms]
            windows = dict(zip(arms, pool.map(Play.run, plays), strict=True))
            for name in arms:
                setting = ARMS[name]
                shown.append(arm_of(preset, setting, windows[name]))
                if setting.has_online and setting.has_batch:
                    figures |= figures_of(preset, setting, windows)
            left = 1 - presence_of(windows[ALONE.name])
            if plot is not None:
                draw(preset, figures, plot, trace)
            notes.append(f"{preset}: online requests alone leave the device {left:.1%} of the time.")
    return Report(figures=figures, arms=shown, notes=notes)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trace", choices=TRACES, default="conv", help="when requests come (default %(default)s)")
    parser.add_argument("--presence", type=float, default=PRESENCE, help="of online requests alone (%(default)s)")
    parser.add_argument("--preset", metavar="A,B", help=f"only these, of {', '.join(LOADS)}")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="also draw the frontier, one file a preset")
    parser.add_argument("--arms", metavar="A,B", help=f"only these, of {', '.join(ARMS)}")


def main(argv: Sequence[str]) -> int:
    return run(
        argv, name="interference_simulated", description=DESCRIPTION, measure=measure, add_arguments=add_arguments
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
