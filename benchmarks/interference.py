"""How much the person typing notices of the batch, and how much the batch gets done: real vLLM over HTTP.

Online requests (MT-bench texts at the arrival times of a real trace) beside a batch backlog. All arms run on one engine
process, which switches between them at run time, in turned order every other round; each round plays the same part of
the trace in every arm. Batch tokens are counted step by step inside the engine; the online side is what clients saw.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from benchmarks import client, interference_arms, interference_figures, machine, online_trace, step_log, vllm_baselines
from benchmarks.backlog import Backlog
from benchmarks.form import Arm, CouldNotMeasure, Figure, Options, Plain, Report, run
from benchmarks.interference_arms import CEILINGS, Setting
from benchmarks.interference_figures import Window
from benchmarks.interference_rig import Rig
from benchmarks.online_trace import TRACES, Arrival
from benchmarks.server_process import ServerProcess
from benchmarks.step_log import Knobs
from engine import embedded

DESCRIPTION = "Online latency and batch throughput side by side on one real engine, under each scheduling policy."
MINUTES, MINUTES_QUICK = 50.0, 3.3
ROUNDS, ROUNDS_QUICK = 8, 2
SETTLE_SECONDS, SETTLE_SECONDS_QUICK = 4.0, 2.5
WINDOW_SECONDS_MIN = 5.0
PRESENCE = 0.275
FILL_SECONDS_MAX = 60.0
LEARN_SECONDS = 8.0
"""Batch alone before the first window: the step model needs some steps to be trusted."""

SLOTS = 64
CPU_ARGS = {
    "dtype": "bfloat16",
    "max-model-len": 2048,
    "max-num-seqs": SLOTS,
    "max-num-batched-tokens": 2048,
    "block-size": 32,
    "kv-cache-memory-bytes": 2**30,
    "enforce-eager": True,
}
SCHEDULERS = {
    "cpu": "benchmarks.vllm_measured.MeasuredScheduler",
    "cuda": "benchmarks.vllm_measured.MeasuredAsyncScheduler",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How long what takes."""

    rounds: int
    settle_seconds: float
    seconds: float

    @classmethod
    def of(cls, options: Options, arms: int) -> Plan:
        rounds = int(str(options.extra["rounds"] or (ROUNDS_QUICK if options.quick else ROUNDS)))
        minutes = float(str(options.extra["minutes"] or (MINUTES_QUICK if options.quick else MINUTES)))
        settle = SETTLE_SECONDS_QUICK if options.quick else SETTLE_SECONDS
        return cls(rounds, settle, max(WINDOW_SECONDS_MIN, minutes * 60 / (rounds * arms) - settle))


def engine_environment(steps: Path, device: str) -> dict[str, str]:
    cores = sorted(os.sched_getaffinity(0))
    return {step_log.FOLDER_VARIABLE: str(steps), **vllm_baselines.core_binding(device, cores)}


def config_of(model: str, options: Options, steps: Path, device: str) -> str:
    """The chat engine on all cores, with our scheduler class and its log."""
    environment = ", ".join(f'{key} = "{value}"' for key, value in engine_environment(steps, device).items())
    scheduler = ["--scheduler-cls", SCHEDULERS["cpu" if device == "cpu" else "cuda"]]
    given = list(options.engine_args) or [part for item in CPU_ARGS.items() for part in _flag(*item) if device == "cpu"]
    flags = ", ".join(f'"{part}"' for part in [*given, *scheduler])
    return (
        f'[[models]]\nid = "{model}"\nkind = "generate"\nonline_first = true\n'
        f"engine_flags = [{flags}]\nenvironment = {{ {environment} }}\n"
    )


def _flag(name: str, value: object) -> list[str]:
    return [f"--{name}"] if value is True else [f"--{name}", str(value)]


def order_of(round_no: int, arms: Sequence[str]) -> list[str]:
    """Every other round runs backwards, so that drift of the machine does not favour whoever comes first."""
    return list(arms) if round_no % 2 == 0 else list(reversed(arms))


def measure(options: Options, say: Callable[[str], None]) -> Report:
    if options.upstream:
        raise CouldNotMeasure("interference switches policies inside an engine of its own: use --model instead")
    changes = cast("Sequence[str]", options.extra["orders"] or ())
    arms = interference_arms.chosen(str(options.extra["arms"] or ""), quick=options.quick, changes=changes)
    plan = Plan.of(options, len(arms))
    device = machine.device()
    model = options.model or embedded.CHAT.id
    with tempfile.TemporaryDirectory(prefix="nightbatch-bench-", ignore_cleanup_errors=True) as scratch:
        steps = Path(scratch) / "steps"
        steps.mkdir()
        step_log.write_knobs(steps, Knobs())
        say(f"starting {model}")
        with ServerProcess([], config=config_of(model, options, steps, device)) as server:
            rig = Rig(server, steps, Path(scratch), model, online_trace.read_texts())
            backlog = Backlog(client.connect(server.url), model, Path(scratch))
            return _measured(options, plan, arms, rig, backlog, say)


def _measured(
    options: Options,
    plan: Plan,
    arms: Mapping[str, Setting],
    rig: Rig,
    backlog: Backlog,
    say: Callable[[str], None],
) -> Report:
    rig.apply(interference_arms.ARMS["batch_alone"])
    alone = rig.alone()
    trace, presence = str(options.extra["trace"]), float(str(options.extra["presence"]))
    windows = online_trace.stretched(
        online_trace.read_trace(trace),
        windows=plan.rounds,
        seconds=plan.seconds,
        alone=alone,
        wanted=presence,
    )
    say(
        f"alone: TTFT {alone.ttft * 1000:.0f} ms, ITL {alone.itl * 1000:.1f} ms; {plan.rounds} rounds of "
        f"{len(arms)} windows of {plan.seconds:.1f} s, {sum(map(len, windows))} online requests an arm"
    )
    backlog.top_up()
    if not rig.wait_until_full(SLOTS, FILL_SECONDS_MAX):
        raise CouldNotMeasure(f"the engine has only {rig.running()} requests after {FILL_SECONDS_MAX:.0f} s")
    time.sleep(LEARN_SECONDS)
    measured: dict[str, list[Window]] = {name: [] for name in arms}
    for round_no in range(plan.rounds):
        for name in order_of(round_no, list(arms)):
            measured[name].append(_window(arms[name], plan, windows[round_no], rig, backlog))
            say(f"round {round_no + 1} of {plan.rounds}, {name}: {_told(measured[name][-1])}")
    return report_of(arms, measured, [
        f"Trace {trace}, stretched so that online requests alone would be present {presence:.0%} of the time.",
        f"Load generators used {rig.load_cpu_seconds:.1f} CPU s in all; {_fitted(rig)}",
    ])  # fmt: skip


def _window(setting: Setting, plan: Plan, arrivals: Sequence[Arrival], rig: Rig, backlog: Backlog) -> Window:
    rig.apply(setting)
    began = time.monotonic()
    backlog.top_up()
    settle = max(0.0, plan.settle_seconds - (time.monotonic() - began))
    return rig.window(arrivals if setting.online else (), settle_seconds=settle, seconds=plan.seconds)


def _told(window: Window) -> str:
    parts = [f"{window.batch_output / window.seconds:.0f} batch tokens/s, {window.running:.0f} running"]
    if window.ttft_ms:
        ttft = interference_figures.pooled([window], interference_figures.ttft, 0.5)
        itl = interference_figures.pooled([window], interference_figures.itl, 0.5)
        parts.append(
            f"{len(window.ttft_ms)} online, present {window.present_seconds / window.seconds:.0%}, "
            f"TTFT p50 {ttft:.0f} ms, ITL p50 {itl:.1f} ms"
        )
    return "; ".join(parts)


def _fitted(rig: Rig) -> str:
    found = rig.reported()
    return (
        f"step model at the end: {found.base_ms:.1f} ms + {found.decode_ms:.2f} a decode + "
        f"{found.prefill_token_ms:.3f} a prompt token + {found.context_kilotoken_ms:.2f} a kilotoken of context, "
        f"relative error {found.relative_error:.2f}."
    )


def report_of(arms: Mapping[str, Setting], measured: Mapping[str, Sequence[Window]], notes: Sequence[str]) -> Report:
    alone = measured["online_alone"]
    best = interference_figures.better(measured, CEILINGS)
    ceiling = measured[best]
    figures: dict[str, Figure] = {}
    shown = []
    for name, setting in arms.items():
        windows = measured[name]
        own = interference_figures.latencies(windows)
        if setting.online and setting.beside == "batch":
            figures[f"{name}_presence"] = own["presence"]
            figures |= interference_figures.ratios(name, windows, alone)
            figures[f"{name}_ceiling_share"] = interference_figures.share(
                windows, ceiling, interference_figures.output_tokens
            )
            own["all_tokens_share"] = interference_figures.share(windows, ceiling, interference_figures.all_tokens)
        own["batch_tokens_per_s"] = interference_figures.rate_figure(
            windows, interference_figures.output_tokens, "output tokens/s"
        )
        own["batch_prompt_tokens_per_s"] = interference_figures.rate_figure(
            windows, lambda one: one.batch_prompt, "prompt tokens/s"
        )
        shown.append(Arm(name, _facts(setting), own))
    return Report(figures=figures, arms=shown, notes=[*notes, f"The ceiling is {best}."])


def _facts(setting: Setting) -> dict[str, Plain]:
    return {**setting.facts(), "cores": len(os.sched_getaffinity(0))}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trace", choices=sorted(TRACES), default="code", help="when requests come (default code)")
    parser.add_argument(
        "--presence", type=float, default=PRESENCE, help="share of time with an online request, alone (%(default)s)"
    )
    parser.add_argument("--arms", metavar="A,B", help=f"only these, of {', '.join(interference_arms.ARMS)}")
    parser.add_argument("--rounds", type=int, help=f"windows of each arm (default {ROUNDS}, quick {ROUNDS_QUICK})")
    parser.add_argument("--minutes", type=float, help=f"in all windows (default {MINUTES}, quick {MINUTES_QUICK})")
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
