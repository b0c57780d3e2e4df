"""Requests whose answers differ much in length: what it gains to send the long ones first.

300 requests with answers of 10 to 512 tokens (Pareto), each as long as its `max_tokens` says. Arms: ours, ours in file
order, and vLLM's run_batch, which knows file order only. They alternate on fresh engines with the same flags; each
round has a file of its own, the same for all arms. In file order a long answer that comes late ends by itself, long
after the others.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from benchmarks import machine, packing_inputs, throughput_arms
from benchmarks.form import Arm, CouldNotMeasure, Options, Report, run
from benchmarks.packing_arms import (
    ARMS,
    FILE_ORDER,
    MIB,
    PACKED,
    RUN_BATCH,
    Files,
    Measured,
    alternate,
    chosen,
    engine_flags,
    facts,
    run_arm,
    speedup,
)
from engine import embedded

DESCRIPTION = "300 requests with answers of very different lengths: ours, file order and run_batch."
LINES = 300
ROUNDS, ROUNDS_QUICK = 5, 2
KV_BYTES = 1024 * MIB


def measure(options: Options, say: Callable[[str], None]) -> Report:
    if options.upstream is not None or options.input is not None:
        raise CouldNotMeasure(
            "stragglers brings its own input and reads the engine's own clock: no --upstream, no --input"
        )
    count = int(str(options.extra["lines"]))
    rounds = int(str(options.extra["rounds"] or (ROUNDS_QUICK if options.quick else ROUNDS)))
    default_arms = (FILE_ORDER, PACKED) if options.quick else ARMS
    arms = chosen(str(options.extra["arms"] or ",".join(default_arms)), ARMS, "arm")
    model, device = throughput_arms.model_source(options.model or embedded.CHAT.id), machine.device()
    flags = engine_flags(options.engine_args, device=device, kv_bytes=KV_BYTES)

    def files_of(round_no: int) -> Files:
        return Files(model, device, flags, [packing_inputs.uneven_lines(count, seed=round_no)])

    measured = alternate(arms, rounds, lambda arm, round_no: run_arm(arm, files_of(round_no)), say, what="stragglers")
    ours = measured.get(PACKED, Measured())
    ratios = {
        "ratio_vs_file_order": speedup(ours, measured.get(FILE_ORDER, Measured())),
        "ratio_vs_run_batch": speedup(ours, measured.get(RUN_BATCH, Measured())),
    }
    return Report(
        {name: ratio for name, ratio in ratios.items() if ratio is not None},
        [Arm(arm, facts(files_of(0)), one.figures()) for arm, one in measured.items()],
        [_note(round_no, packing_inputs.heavy_tailed_lengths(count, seed=round_no)) for round_no in range(rounds)],
    )


def _note(round_no: int, lengths: Sequence[int]) -> str:
    longest = sum(length == packing_inputs.LONGEST_ANSWER for length in lengths)
    return (
        f"round {round_no + 1}: {sum(lengths)} output tokens, median {sorted(lengths)[len(lengths) // 2]}, "
        f"{longest} answers of {packing_inputs.LONGEST_ANSWER}."
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lines", type=int, default=LINES, help="requests (default %(default)s)")
    parser.add_argument("--rounds", type=int, help=f"alternations (default {ROUNDS}, quick {ROUNDS_QUICK})")
    parser.add_argument("--arms", metavar="A,B", help=f"of {', '.join(ARMS)} (default all; quick: without run_batch)")


def main(argv: Sequence[str]) -> int:
    return run(argv, name="stragglers", description=DESCRIPTION, measure=measure, add_arguments=add_arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
