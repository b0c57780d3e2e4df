"""What packing gains where prompts begin alike, and what it costs where they do not.

Cases: BIG-Bench Hard with its 27 few-shot prompts, rows shuffled, and a KV cache that holds half of the prompts; the
same with longer answers; the same with a cache that holds everything; the same rows as four tenants' batches at once;
GSM8K, where nothing is shared. Arms: vLLM's run_batch, ours in file order (`packing = "file"`) and ours packed, in
turned order every other round, each on a fresh engine with the same flags. Time runs from the first engine request to
the last result, by the stat logger that all arms load (`engine_clock`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks import machine, packing_inputs, throughput_arms
from benchmarks.form import Arm, CouldNotMeasure, Figure, Options, Report, run
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
from engine.vllm import source

DESCRIPTION = "Shared few-shot prompts: run_batch, ours in file order and ours packed; four tenants; nothing shared."
ROWS_QUICK = 6
DISTINCT_LINES = 200
DISTINCT_TOKENS = 64
TENANTS = 4
ROUNDS, ROUNDS_FINE = 3, 5
"""Five where a ratio is claimed to within 5 %."""

ROOMY_KV_BYTES = 4096 * MIB
"""What vLLM takes by itself is most of the machine's memory. This holds all that a case ever needs, so nothing is
evicted either, and both sides get the same."""


@dataclass(frozen=True, slots=True)
class Case:
    """`files` are made from the number of rows of each task."""

    what: str
    files: Callable[[int], list[list[bytes]]]
    rounds: int = ROUNDS
    is_roomy: bool = False


def _few_shot(max_tokens: int) -> Callable[[int], list[list[bytes]]]:
    return lambda rows: [packing_inputs.few_shot_lines(rows_per_task=rows, max_tokens=max_tokens)]


CASES = {
    "bbh": Case("few-shot prompts, 16 output tokens, KV for half of the prompts", _few_shot(16)),
    "bbh_128": Case("the same with 128 output tokens", _few_shot(128)),
    "bbh_roomy": Case("the same as bbh with KV for everything", _few_shot(16), is_roomy=True),
    "tenants": Case(
        "the rows of bbh as the batches of four tenants at once",
        lambda rows: packing_inputs.split(packing_inputs.few_shot_lines(rows_per_task=rows, max_tokens=16), TENANTS),
    ),
    "gsm8k": Case(
        "questions that share nothing",
        lambda _: [packing_inputs.distinct_lines(count=DISTINCT_LINES, max_tokens=DISTINCT_TOKENS)],
        rounds=ROUNDS_FINE,
        is_roomy=True,
    ),
}


def half_of_the_prompts(model: str) -> int:
    """Bytes of KV cache for half of the tokens of all few-shot prompts."""
    found = source.inspect(model)
    token_bytes = source.kv_token_bytes(found.config)
    if found.folder is None or token_bytes is None:
        raise CouldNotMeasure(f"the size of a token of {found.id} in the cache is not known: say --kv-bytes")
    return packing_inputs.prefix_tokens(found.folder) * token_bytes // 2


def headline(case: str, measured: Mapping[str, Measured]) -> dict[str, Figure]:
    packed = measured.get(PACKED, Measured())
    ratios = {
        f"{case}_vs_run_batch": speedup(packed, measured.get(RUN_BATCH, Measured())),
        f"{case}_vs_file_order": speedup(packed, measured.get(FILE_ORDER, Measured())),
    }
    return {name: ratio for name, ratio in ratios.items() if ratio is not None}


def measure(options: Options, say: Callable[[str], None]) -> Report:
    if options.upstream is not None or options.input is not None:
        raise CouldNotMeasure(
            "packing brings its own input, and empties the engine's cache between its arms: no "
            "--upstream and no --input"
        )
    names = chosen(str(options.extra["cases"] or ("bbh" if options.quick else ",".join(CASES))), tuple(CASES), "case")
    arms = chosen(str(options.extra["arms"] or ",".join(ARMS)), ARMS, "arm")
    rows = int(str(options.extra["rows"] or (ROWS_QUICK if options.quick else packing_inputs.ROWS_PER_TASK)))
    rounds = options.extra["rounds"] or (1 if options.quick else None)
    model, device = throughput_arms.model_source(options.model or embedded.CHAT.id), machine.device()
    given_bytes = options.extra["kv_bytes"]
    prompts = packing_inputs.few_shot_prompts()
    figures: dict[str, Figure] = {}
    shown: list[Arm] = []
    notes = [
        f"{rows} rows for each of {len(prompts)} tasks, which have {len(set(prompts.values()))} different prompts."
    ]
    for name in names:
        case = CASES[name]
        kv_bytes = ROOMY_KV_BYTES if case.is_roomy else int(str(given_bytes or half_of_the_prompts(model)))
        flags = engine_flags(options.engine_args, device=device, kv_bytes=kv_bytes)
        files = Files(model, device, flags, case.files(rows))
        run_one = partial(_run, files)
        measured = alternate(arms, int(str(rounds or case.rounds)), run_one, say, what=name)
        figures |= headline(name, measured)
        shown += [Arm(f"{name}/{arm}", facts(files), one.figures()) for arm, one in measured.items()]
        notes.append(f"{name}: {case.what}; {len(files.lines)} lines, {kv_bytes / MIB:.0f} MiB of KV cache.")
    return Report(figures, shown, notes)


def _run(files: Files, arm: str, _round_no: int) -> throughput_arms.Run:
    return run_arm(arm, files)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cases", metavar="A,B", help=f"of {', '.join(CASES)} (default all; quick: bbh)")
    parser.add_argument("--arms", metavar="A,B", help=f"of {', '.join(ARMS)} (default all)")
    parser.add_argument(
        "--rows", type=int, help=f"of each task (default {packing_inputs.ROWS_PER_TASK}, quick {ROWS_QUICK})"
    )
    parser.add_argument("--rounds", type=int, help=f"alternations (default {ROUNDS}, gsm8k {ROUNDS_FINE}, quick 1)")
    parser.add_argument("--kv-bytes", type=int, help="KV cache (default: what half of the few-shot prompts take)")


def main(argv: Sequence[str]) -> int:
    return run(argv, name="packing", description=DESCRIPTION, measure=measure, add_arguments=add_arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
