"""The same file through our API and through what there is without us, on one model with the same engine flags.

Arms: ours (upload to completed), vLLM's run_batch with the same flags, a parallel client in front of vLLM's own API
server with the same flags, and run_batch at its own defaults. They alternate, in turned order every other round; each
run starts a fresh engine, so no arm finds another's prefix cache. Time runs from the first engine request to the last
result, written by one stat logger inside vLLM that all arms load (`engine_clock`); starting an engine is not timed.

`wait_ratio_vs_parallel_client` is of what the clients waited: theirs, first send to last answer, by ours, upload to
completed. `--smallest-job` asks only this, of jobs of 1 to 512 lines (`smallest_job`).

With `--upstream` there is no engine of ours to look into: the same tap (`benchmarks.tap`) then stands between either
client and the upstream, and the run_batch arms are left out.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import examples, smallest_job, statistics, throughput_arms
from benchmarks.form import Arm, CouldNotMeasure, Figure, Options, Plain, Report, run, summarised
from benchmarks.throughput_arms import Plan, Run, RunnableArm

DESCRIPTION = "The same file through our API, vLLM's run_batch and a parallel client, alternating, on one model."
ROUNDS, ROUNDS_QUICK = 5, 3
LINES, LINES_QUICK = 1_000, 240
OURS = "ours"
INPUT_PATTERN = "*banking77*.jsonl"


@dataclass(slots=True)
class Measured:
    """The runs of one arm, one a round."""

    facts: Mapping[str, Plain]
    runs: list[Run] = field(default_factory=list)
    wall: str = throughput_arms.BATCH_WALL

    def rates(self) -> list[float]:
        return [run.window.requests_per_s for run in self.runs]

    def figures(self) -> dict[str, Figure]:
        windows = [run.window for run in self.runs]
        found = {
            "requests_per_s": summarised([one.requests_per_s for one in windows], "requests/s"),
            "tokens_per_s": summarised([one.tokens_per_s for one in windows], "output tokens/s"),
            "engine_s": summarised([one.seconds for one in windows], "s"),
            "output_tokens": summarised([float(one.output_tokens) for one in windows], "tokens"),
            "prompt_tokens": summarised([float(one.prompt_tokens) for one in windows], "tokens"),
            "cached_tokens": summarised([float(one.cached_tokens) for one in windows], "tokens"),
        }
        if walls := self.walls():
            found[self.wall] = summarised(walls, "s")
        return found

    def walls(self) -> list[float]:
        return [run.wall_seconds for run in self.runs if run.wall_seconds is not None]


def order_of(round_no: int, arms: Sequence[str]) -> list[str]:
    """Every other round runs backwards, so that drift of the machine does not favour whoever comes first."""
    return list(arms) if round_no % 2 == 0 else list(reversed(arms))


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Figure:
    return summarised(statistics.ratios(ours, theirs), "x")


def headline(measured: Mapping[str, Measured]) -> dict[str, Figure]:
    ours = measured[OURS]
    found = {}
    for arm, name in (
        ("run_batch", "ratio_vs_run_batch"),
        ("parallel_client", "ratio_vs_parallel_client"),
        ("run_batch_defaults", "ratio_vs_run_batch_defaults"),
    ):
        if arm in measured and len(measured[arm].runs) == len(ours.runs):
            found[name] = ratio(ours.rates(), measured[arm].rates())
    client = measured.get("parallel_client")
    if client is not None and len(client.walls()) == len(ours.walls()) > 0:
        found["wait_ratio_vs_parallel_client"] = ratio(client.walls(), ours.walls())
    figures = ours.figures()
    return {**found, "requests_per_s": figures["requests_per_s"], "tokens_per_s": figures["tokens_per_s"]}


def chosen(arms: dict[str, RunnableArm], names: str) -> dict[str, RunnableArm]:
    """The arms named in a comma-separated list, all for an empty one; ours is always among them."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if unknown := [name for name in wanted if name not in arms]:
        raise CouldNotMeasure(f"no arm {', '.join(unknown)}; there are {', '.join(arms)}")
    return {name: arm for name, arm in arms.items() if not wanted or name in wanted or name == OURS}


def measure(options: Options, say: Callable[[str], None]) -> Report:
    source = options.input or examples.find(INPUT_PATTERN)
    lines = examples.read_lines(source)
    wanted = int(str(options.extra["lines"] or (LINES_QUICK if options.quick else LINES)))
    rounds = int(str(options.extra["rounds"] or (ROUNDS_QUICK if options.quick else ROUNDS)))
    plan = Plan.of(options, lines=lines, count=wanted, inflight_max=int(str(options.extra["inflight"])))
    if options.extra["smallest_job"]:
        return smallest_job.measure(plan, source.name, rounds, quick=options.quick, say=say)
    arms = chosen(throughput_arms.arms(plan), str(options.extra["arms"] or ""))
    once = {"run_batch_defaults"} if options.quick else set()
    measured = {name: Measured(arm.facts, wall=arm.wall) for name, arm in arms.items()}
    for round_no in range(rounds):
        for name in order_of(round_no, list(arms)):
            if name in once and round_no > 0:
                continue
            began = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="nightbatch-bench-", ignore_cleanup_errors=True) as scratch:
                measured[name].runs.append(arms[name].run(Path(scratch)))
            window = measured[name].runs[-1].window
            say(
                f"round {round_no + 1} of {rounds}, {name}: {window.requests_per_s:.2f} requests/s, "
                f"{window.seconds:.1f} s in the engine, {time.monotonic() - began:.0f} s with start and stop"
            )
    distinct = min(wanted, len(lines))
    notes = [f"Input: {source.name}, {wanted} lines, {distinct} of them different."]
    if once & measured.keys():
        notes.append("run_batch_defaults ran once (--quick), so no ratio is formed with it.")
    return Report(
        figures=headline(measured),
        arms=[Arm(name, one.facts, one.figures()) for name, one in measured.items()],
        notes=notes,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lines", type=int, help=f"lines of the input to send (default {LINES}, quick {LINES_QUICK})")
    parser.add_argument("--rounds", type=int, help=f"alternations (default {ROUNDS}, quick {ROUNDS_QUICK})")
    parser.add_argument("--arms", metavar="A,B", help="only these beside ours, for example run_batch (default: all)")
    parser.add_argument(
        "--smallest-job",
        action="store_true",
        help="instead: jobs of 1, 2, 4 ... lines as batches and by the parallel client, and from where on batches win",
    )
    parser.add_argument("--inflight", type=int, default=64, help="of the parallel client (default %(default)s)")


def main(argv: Sequence[str]) -> int:
    return run(argv, name="throughput", description=DESCRIPTION, measure=measure, add_arguments=add_arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
