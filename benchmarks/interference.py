"""How much the person typing notices of the batch, and how much the batch gets done: real vLLM over HTTP.

Online requests (MT-bench texts at the arrival times of a real trace) beside a batch backlog. All arms run on one engine
process, which switches between them at run time, in turned order every other round; each round plays the same part of
the trace in every arm. Batch tokens are counted step by step inside the engine; the online side is what clients saw.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import cast

from benchmarks import (
    client,
    examples,
    interference_arms,
    interference_engines,
    interference_plot,
    machine,
    online_trace,
)
from benchmarks.anonymous import argument
from benchmarks.form import CouldNotMeasure, Options, Report, run
from benchmarks.interference_arms import ARMS, SHARE_OF
from benchmarks.interference_report import report_of
from benchmarks.interference_rig import Folders, Rig
from benchmarks.interference_run import Measurement, Plan
from benchmarks.online_trace import TRACES
from benchmarks.server_process import ServerProcess
from engine import embedded
from engine.vllm.online_first import channel

DESCRIPTION = "Online latency and batch throughput side by side on one real engine, under each scheduling policy."
MINUTES, MINUTES_QUICK = 46.0, 2.6
"""Of windows and the settling before them; starting, filling and emptying engines take a fifth of that again."""

ROUNDS, ROUNDS_QUICK = 8, 2
SETTLE_SECONDS, SETTLE_SECONDS_QUICK = 4.0, 2.0
PRESENCE = 0.275


def plan_of(options: Options, arms: Collection[str]) -> Plan:
    rounds = int(str(options.extra["rounds"] or (ROUNDS_QUICK if options.quick else ROUNDS)))
    minutes = float(str(options.extra["minutes"] or (MINUTES_QUICK if options.quick else MINUTES)))
    return Plan.fitting(
        minutes * 60,
        rounds=rounds,
        arms=arms,
        settle_seconds=SETTLE_SECONDS_QUICK if options.quick else SETTLE_SECONDS,
        once=frozenset(SHARE_OF.values()) if options.quick else frozenset(),
    )


def measure(options: Options, say: Callable[[str], None]) -> Report:
    if options.upstream:
        raise CouldNotMeasure("interference switches policies inside an engine of its own: use --model instead")
    plot = cast("Path | None", options.extra["plot"])
    if plot is not None:
        interference_plot.check_available()
    changes = cast("Sequence[str]", options.extra["orders"] or ())
    arms = interference_arms.chosen(str(options.extra["arms"] or ""), quick=options.quick, changes=changes)
    plan = plan_of(options, arms)
    given = examples.read_lines(options.input) if options.input else ()
    trace, presence = str(options.extra["trace"]), float(str(options.extra["presence"]))
    model = options.model or embedded.CHAT.id
    with tempfile.TemporaryDirectory(prefix="nightbatch-bench-", ignore_cleanup_errors=True) as scratch:
        folders = Folders.under(Path(scratch))
        engines = interference_engines.of(model, arms, folders, options.engine_args, machine.device())
        say(f"starting {', '.join(engines.models)}")
        server = ServerProcess(
            ["--control", str(folders.control)],
            config=engines.config,
            program=("benchmarks.interference_server",),
        )
        with server:
            rig = Rig(server, folders, model, online_trace.read_texts())
            rig.apply(ARMS["batch_alone"])
            alone = rig.alone()
            windows = online_trace.stretched(
                online_trace.read_trace(trace), windows=plan.rounds, seconds=plan.seconds, alone=alone, wanted=presence
            )
            say(
                f"alone: TTFT {alone.ttft * 1000:.0f} ms, ITL {alone.itl * 1000:.1f} ms; {plan.rounds} rounds of "
                f"{len(arms)} windows of {plan.seconds:.1f} s, {sum(map(len, windows))} online requests an arm"
            )
            measurement = Measurement(rig, client.connect(server.url), engines, plan, say, given=given)
            measured = measurement.run(arms, windows)
            fitted = _fitted(rig.reported())
    notes = [
        f"Trace {trace}, stretched so that online requests alone would be present {presence:.0%} of the time.",
        f"{plan.rounds} windows of {plan.seconds:.1f} s an arm, {plan.settle_seconds:.0f} s or more between them.",
        f"The load generators used {rig.load_cpu_seconds:.1f} CPU s in all.",
        fitted,
    ]
    report = report_of(arms, measured, engines.facts, notes)
    if plot is not None:
        title = f"{argument(model)} on {machine.device()}, trace {trace}, presence {presence:.0%}"
        interference_plot.draw(report.figures, plot, title)
    return report


def _fitted(report: channel.Report) -> str:
    return (
        f"Step model at the end: {report.base_ms:.1f} ms, {report.decode_ms:.2f} a decode, "
        f"{report.prefill_token_ms:.3f} a prompt token, {report.context_kilotoken_ms:.2f} a kilotoken of context; "
        f"relative error {report.relative_error:.2f}."
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trace",
        choices=sorted(TRACES),
        default="conv",
        help="when requests come: `code` in bursts, `conv` steadily (default)",
    )
    parser.add_argument(
        "--presence", type=float, default=PRESENCE, help="share of time with an online request, alone (%(default)s)"
    )
    parser.add_argument("--arms", metavar="A,B", help=f"only these, of {', '.join(ARMS)}")
    parser.add_argument("--rounds", type=int, help=f"windows of each arm (default {ROUNDS}, quick {ROUNDS_QUICK})")
    parser.add_argument("--minutes", type=float, help=f"in all windows (default {MINUTES}, quick {MINUTES_QUICK})")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw latency against throughput there")
    parser.add_argument(
        "--orders",
        action="append",
        metavar="ARM:KEY=VALUE,...",
        help="other orders for an arm, or a new arm like online_first with these; may be repeated",
    )


def main(argv: Sequence[str]) -> int:
    return run(argv, name="interference", description=DESCRIPTION, measure=measure, add_arguments=add_arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
