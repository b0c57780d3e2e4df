"""A week of batches in virtual time: are deadlines kept, does the work move into the windows, do small batches wait?

An engine with windows, tiers, tenants and online load, and batches whose work fills the windows to 92 %; three
disciplines run the same weeks. First come first served and earliest deadline first run at any hour. Ours is the
scheduler's own policy code, with `outside = "hold"`. Line times differ from what it estimates by up to 30 % per batch.

The second load fills 92 % of all that online requests leave, peak hours too: there work cannot move far, and what is
shown is that deadlines are kept.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from benchmarks import deadlines_arms as arms
from benchmarks import deadlines_plot, interference_plot, statistics
from benchmarks.deadlines_arms import Measured, Weeks
from benchmarks.deadlines_world import HOUR, WEEK, Room, room
from benchmarks.form import Arm, CouldNotMeasure, Figure, Options, Report, run, summarised

DESCRIPTION = (
    "A week of batches in virtual time under FCFS, EDF and ours: deadlines, share of work in windows, stretch."
)
LOAD, PEAK_SHARE, ESTIMATES_OFF = 0.92, 0.6, 0.3
SEEDS, SEEDS_QUICK = 5, 1
FCFS_MISSES_MIN = 0.2
"""With fewer the load discriminates between nothing."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is filled to `--load`: the windows, or all that online requests leave. `suffix` is in its arms' names."""

    suffix: str
    of: str
    seconds: Callable[[Room], float]


WINDOWS = Load("", "what online requests leave inside the windows", lambda room: room.off_peak_seconds)
WHOLE_WEEK = Load("_whole_week", "what online requests leave in the whole week", lambda room: room.seconds)


@dataclass(frozen=True, slots=True)
class Result:
    """The runs at one load, by seed."""

    weeks: Sequence[Weeks]
    runs: Mapping[str, Sequence[Measured]]
    bounds: Sequence[float]

    @property
    def batches(self) -> int:
        return sum(len(weeks.measured) for weeks in self.weeks)

    def misses(self, name: str) -> int:
        return sum(len(run.misses) for run in self.runs[name])

    def off_peak_share(self, name: str) -> Figure:
        return summarised([run.off_peak_share for run in self.runs[name]], "of batch tokens")

    def off_peak_lead(self) -> Figure:
        pairs = zip(self.runs["ours"], self.runs["edf"], strict=True)
        return summarised([100 * (ours.off_peak_share - edf.off_peak_share) for ours, edf in pairs], "points")

    def stretch(self, name: str, share: float) -> Figure:
        return summarised([run.stretch_quantile(share) for run in self.runs[name]], "x")

    def figures(self, name: str) -> dict[str, Figure]:
        any_hour = [statistics.quantile(run.stretch_any_hour, 0.95) for run in self.runs[name]]
        return {
            "misses": Figure(self.misses(name), "batches", self.batches),
            "misses_share": Figure(self.misses(name) / self.batches, "of batches", self.batches),
            "off_peak_share": self.off_peak_share(name),
            "stretch_p50": self.stretch(name, 0.5),
            "stretch_p95": self.stretch(name, 0.95),
            "stretch_any_hour_p95": summarised(any_hour, "x"),
        }


def run_load(load: Load, options: Options, seeds: Sequence[int], say: Callable[[str], None]) -> Result:
    share, off = cast("float", options.extra["load"]), cast("float", options.extra["estimates_off"])
    left = room(weeks=arms.WEEKS, peak_share=PEAK_SHARE)
    every, bounds = [], []
    runs: dict[str, list[Measured]] = {name: [] for name in arms.DISCIPLINES}
    for seed in seeds:
        weeks = arms.weeks(left, work_seconds=share * load.seconds(left) / arms.WEEKS, estimates_off=off, seed=seed)
        every.append(weeks)
        bounds.append(arms.fluid_bound(weeks))
        for name in arms.DISCIPLINES:
            say(f"seed {seed}: {name}, {len(weeks.measured)} batches, {share:.0%} of {load.of}")
            runs[name].append(arms.measure(weeks, name))
    return Result(every, runs, bounds)


def report(results: Mapping[Load, Result], share: float, off: float) -> Report:
    main = results[WINDOWS]
    figures = {
        **{f"misses_{name}": Figure(main.misses(name), "batches", main.batches) for name in ("ours", "edf", "fcfs")},
        "off_peak_share": main.off_peak_share("ours"),
        "off_peak_share_edf": main.off_peak_share("edf"),
        "off_peak_lead": main.off_peak_lead(),
        "stretch_p95": main.stretch("ours", 0.95),
        "misses_ours_whole_week": Figure(results[WHOLE_WEEK].misses("ours"), "batches", results[WHOLE_WEEK].batches),
    }
    found = [
        Arm(
            f"{name}{load.suffix}",
            {"load": f"{share:.0%} of {load.of}", "estimates_off": f"up to {off:.0%}", "weeks": len(result.weeks)},
            result.figures(name),
        )
        for load, result in results.items()
        for name in arms.DISCIPLINES
    ]
    return Report(figures, found, [line for load, result in results.items() for line in _notes(load, result)])


def _notes(load: Load, result: Result) -> list[str]:
    fcfs = result.misses("fcfs") / result.batches
    bound = sum(arms.off_peak_bound(weeks) for weeks in result.weeks) / len(result.weeks)
    bounds = f"{min(result.bounds):.2f} to {max(result.bounds):.2f}"
    found = [f"At {load.of}: by the fluid bound all deadlines can be kept with {bounds} times this work, at any hour."]
    found.append(f"At {load.of}: at most {bound:.0%} of the work fits into the windows.")
    if min(result.bounds) < 1:
        found.append("One of these weeks is not feasible: a miss there is nobody's fault.")
    if fcfs < FCFS_MISSES_MIN:
        found.append(f"First come first served misses only {fcfs:.0%}: too little load to tell disciplines apart.")
    return found


def measure(options: Options, say: Callable[[str], None]) -> Report:
    if options.model or options.upstream or options.input or options.engine_args:
        raise CouldNotMeasure("this benchmark has no engine: it takes neither a model nor an upstream, file or flags")
    share, off = cast("float", options.extra["load"]), cast("float", options.extra["estimates_off"])
    if not 0 < share <= 1 or not 0 <= off < 1:
        raise CouldNotMeasure("--load is a share above 0 and up to 1, --estimates-off one below 1")
    plot = cast("Path | None", options.extra["plot"])
    if plot is not None:
        interference_plot.check_available()
    seeds = range(1, 1 + int(str(options.extra["seeds"] or (SEEDS_QUICK if options.quick else SEEDS))))
    results = {load: run_load(load, options, seeds, say) for load in (WINDOWS, WHOLE_WEEK)}
    if plot is not None:
        _draw(results[WINDOWS], plot, share)
    return report(results, share, off)


def _draw(result: Result, path: Path, share: float) -> None:
    weeks = result.weeks[0]
    deadlines_plot.draw(
        weeks.room,
        {name: runs[0].spent for name, runs in result.runs.items()},
        first=weeks.slices.start,
        hours=int(WEEK / HOUR),
        path=path,
        title=f"The same week of batches, {share:.0%} of what online requests leave inside the windows",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--load", type=float, default=LOAD, metavar="SHARE", help=f"work over room (default {LOAD})")
    parser.add_argument(
        "--estimates-off", type=float, default=ESTIMATES_OFF, metavar="SHARE", help=f"default {ESTIMATES_OFF}"
    )
    parser.add_argument("--seeds", type=int, metavar="N", help=f"so many different weeks (default {SEEDS})")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw a week under each discipline there")


def main(argv: Sequence[str]) -> int:
    return run(argv, name="deadlines", description=DESCRIPTION, measure=measure, add_arguments=add_arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
