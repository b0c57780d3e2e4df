"""Whether a million lines cost what a thousand cost each: speed, memory, CPU, the end and a restart in the middle.

A real server on an engine that takes no time, so that what is measured is everything around an engine. The clock runs
from the first byte of the upload to the last byte of the results, which are then compared with the input line by line.
Server and client share the machine's cores.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

from benchmarks import scale_lines, scale_run
from benchmarks.form import Arm, CouldNotMeasure, Figure, Options, Plain, Report, run, summarised
from benchmarks.scale_lines import Beginnings
from benchmarks.scale_run import Planned, Restart, Run

DESCRIPTION = "1,000 to 1,000,000 lines through a real server on an instant engine: speed, memory, CPU, restart."
SIZES = (1_000, 10_000, 100_000, 1_000_000)
GROWTH_FROM = 10_000
ROUNDS: Mapping[int, int] = {1_000: 3, 10_000: 5, 100_000: 3, 1_000_000: 3}
ROUNDS_QUICK: Mapping[int, int] = {1_000: 1, 10_000: 3, 100_000: 1, 1_000_000: 1}
RESTART_LINES, RESTART_LINES_QUICK = 1_000_000, 200_000
LARGE_LINES_MIN = 50_000
"""With fewer there is no time to interrupt a batch, and nothing to see in how it is planned."""

MIB = 2**20
NAMES = {1_000_000: "million", 100_000: "100k", 10_000: "10k", 1_000: "1k"}


def name_of(lines: int) -> str:
    return NAMES.get(lines, str(lines))


def sizes_up_to(lines_max: int) -> list[int]:
    return [size for size in SIZES if size < lines_max] + [lines_max]


def run_figures(runs: Sequence[Run]) -> dict[str, Figure]:
    return {
        "lines_per_s": summarised([one.lines / one.seconds for one in runs], "lines/s"),
        "cpu_s_per_1000_lines": summarised([one.cpu_seconds / one.lines * 1000 for one in runs], "CPU s"),
        "client_cpu_s_per_1000_lines": summarised([one.client_cpu_seconds / one.lines * 1000 for one in runs], "CPU s"),
        "rss_peak_mib": summarised([one.rss_peak_bytes / MIB for one in runs], "MiB"),
        "rss_idle_mib": summarised([one.rss_idle_bytes / MIB for one in runs], "MiB"),
        "upload_s": summarised([one.upload_seconds for one in runs], "s"),
        "validate_s": summarised([one.validate_seconds for one in runs], "s"),
        "run_s": summarised([one.run_seconds for one in runs], "s"),
        "finalize_s": summarised([one.finalize_seconds for one in runs], "s"),
        "download_s": summarised([one.download_seconds for one in runs], "s"),
    }


def planned_figures(one: Planned) -> dict[str, Figure]:
    return {
        "upload_s": Figure(one.upload_seconds, "s", 1),
        "validate_s": Figure(one.validate_seconds, "s", 1),
        "rss_growth_mib": Figure((one.rss_peak_bytes - one.rss_idle_bytes) / MIB, "MiB", 1),
        "rss_peak_mib": Figure(one.rss_peak_bytes / MIB, "MiB", 1),
    }


def restart_figures(one: Restart) -> dict[str, Figure]:
    return {
        "ready_s": Figure(one.ready_seconds, "s", 1),
        "restart_s": Figure(one.resumed_seconds, "s", 1),
        "finalize_s": Figure(one.finalize_seconds, "s", 1),
    }


def headline(arms: Mapping[int, Mapping[str, Figure]]) -> dict[str, Figure]:
    """Of the largest size, and how it compares with GROWTH_FROM lines where that was measured too."""
    largest = max(arms)
    of_largest, smaller = arms[largest], arms.get(GROWTH_FROM)
    name = name_of(largest)
    figures = {
        "lines_per_s": of_largest["lines_per_s"],
        f"rss_mib_{name}": of_largest["rss_peak_mib"],
        "finalize_s": of_largest["finalize_s"],
        "cpu_s_per_1000_lines": of_largest["cpu_s_per_1000_lines"],
    }
    if smaller is not None and largest != GROWTH_FROM:
        n = min(of_largest["lines_per_s"].n, smaller["lines_per_s"].n)
        growth = of_largest["rss_peak_mib"].value - smaller["rss_peak_mib"].value
        cost = of_largest["cpu_s_per_1000_lines"].value / smaller["cpu_s_per_1000_lines"].value
        figures[f"rss_growth_mib_{name_of(GROWTH_FROM)}_to_{name}"] = Figure(growth, "MiB", n)
        figures[f"cpu_per_line_{name}_vs_{name_of(GROWTH_FROM)}"] = Figure(cost, "ratio", n)
    return figures


def measure(options: Options, say: Callable[[str], None]) -> Report:
    if options.model or options.upstream or options.input:
        raise CouldNotMeasure("scale has an engine and an input of its own: leave out --model, --upstream and --input")
    rounds = ROUNDS_QUICK if options.quick else ROUNDS
    lines_max = cast("int", options.extra["lines_max"])
    restart_lines = min(RESTART_LINES_QUICK if options.quick else RESTART_LINES, lines_max)
    is_large = lines_max >= LARGE_LINES_MIN
    by_size: dict[int, Mapping[str, Figure]] = {}
    arms: list[Arm] = []
    with tempfile.TemporaryDirectory(prefix="nightbatch-bench-") as scratch:
        folder = Path(scratch)
        for size in sizes_up_to(lines_max):
            path = _input(folder, size, Beginnings.DISTINCT)
            runs = []
            for number in range(rounds.get(size, 1)):
                runs.append(scale_run.through(path, size, folder))
                say(f"{size:,} lines, round {number + 1}: {runs[-1].seconds:.2f} s")
            by_size[size] = run_figures(runs)
            arms.append(Arm(f"{size:,} lines", _facts(runs[-1].processes), by_size[size]))
            if size != restart_lines:
                path.unlink()
        for beginnings in Beginnings if is_large else ():
            one = scale_run.planned(_input(folder, lines_max, beginnings), lines_max)
            say(f"{lines_max:,} {beginnings} beginnings taken in: {one.upload_seconds + one.validate_seconds:.2f} s")
            arms.append(Arm(f"{lines_max:,} {beginnings} beginnings, taken in only", {}, planned_figures(one)))
        figures = headline(by_size)
        if is_large:
            path = _input(folder, restart_lines, Beginnings.DISTINCT)
            again = scale_run.restarted(path, restart_lines, folder, say)
            facts: dict[str, Plain] = {"lines": again.lines, "done_before": again.done_before}
            arms.append(Arm("restart", facts, restart_figures(again)))
            figures["restart_s"] = arms[-1].figures["restart_s"]
    return Report(figures=figures, arms=arms, notes=["The figures above the arms are those of the largest input."])


def _facts(processes: int) -> dict[str, Plain]:
    return {"engine": "simulated, instant", "line_bytes": scale_lines.LINE_BYTES, "processes": processes}


def _input(folder: Path, lines: int, beginnings: Beginnings) -> Path:
    path = folder / f"{lines}-{beginnings}.jsonl"
    if path.exists():
        return path
    return scale_lines.write(path, lines, model=scale_run.MODEL, beginnings=beginnings)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--lines-max", type=_lines, default=SIZES[-1], metavar="N", help="the largest input (default: %(default)s)"
    )


def _lines(text: str) -> int:
    lines = int(text)
    if lines < SIZES[0]:
        raise argparse.ArgumentTypeError(f"at least {SIZES[0]:,} lines")
    return lines


def main(argv: Sequence[str]) -> int:
    return run(argv, name="scale", description=DESCRIPTION, measure=measure, add_arguments=add_arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
