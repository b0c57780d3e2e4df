"""A backfill of short texts: through our API against one `LLM.embed` of all of them, on one model with the same flags.

Arms: `llm_embed` (what vLLM's own class takes for the call, with nothing else in the process), ours with one text a
line, and ours with 16; on request ours with base64, and ours through vLLM's serving class, which plain embeddings go
past. They alternate, in turned order every other round; each run starts a fresh engine and embeds a few texts first.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import embedding_texts, embeddings_arms, statistics
from benchmarks.embeddings_arms import LLM_EMBED, Plan, Run, check_alike
from benchmarks.form import Arm, CouldNotMeasure, Figure, Options, Plain, Report, run, summarised

DESCRIPTION = "Short texts through our API and through one LLM.embed, alternating, on one model."
ROUNDS, ROUNDS_QUICK = 5, 3
TEXTS, TEXTS_QUICK = 20_000, 4_000
OURS, ARRAYS = "ours", "ours_arrays"
DEFAULT_ARMS = (OURS, ARRAYS, LLM_EMBED)


@dataclass(slots=True)
class Measured:
    """The runs of one arm, one a round."""

    texts: int
    facts: Mapping[str, Plain]
    runs: list[Run] = field(default_factory=list)

    def rates(self) -> list[float]:
        return [self.texts / run.seconds for run in self.runs]

    def waited_rates(self) -> list[float]:
        """By all that a client waits for; of a call that is the call."""
        return [self.texts / (run.waited_seconds or run.seconds) for run in self.runs]

    def figures(self) -> dict[str, Figure]:
        found = {
            "texts_per_s": summarised(self.rates(), "texts/s"),
            "tokens_per_s": summarised([run.prompt_tokens / run.seconds for run in self.runs], "tokens/s"),
            "engine_s": summarised([run.seconds for run in self.runs], "s"),
        }
        waited = [run.waited_seconds for run in self.runs if run.waited_seconds is not None]
        if waited:
            found["upload_to_downloaded_s"] = summarised(waited, "s")
        sizes = [run.result_bytes for run in self.runs if run.result_bytes is not None]
        if sizes:
            found["result_bytes_per_text"] = summarised([size / self.texts for size in sizes], "bytes")
        parts = self.runs[0].cpu_seconds if self.runs else {}
        for part in parts:
            each = [1000 * run.cpu_seconds[part] / self.texts for run in self.runs]
            found[f"cpu_ms_per_text_{part}"] = summarised(each, "ms")
        return found


def headline(measured: Mapping[str, Measured]) -> dict[str, Figure]:
    theirs = measured[LLM_EMBED]
    found = {}
    for name, arm in measured.items():
        if name == LLM_EMBED or len(arm.runs) != len(theirs.runs):
            continue
        suffix = name.removeprefix(OURS)
        found[f"ratio_vs_llm_embed{suffix}"] = summarised(statistics.ratios(arm.rates(), theirs.rates()), "x")
        waited = statistics.ratios(arm.waited_rates(), theirs.rates())
        found[f"ratio_upload_to_downloaded{suffix}"] = summarised(waited, "x")
    return found


def order_of(round_no: int, arms: Sequence[str]) -> list[str]:
    return list(arms) if round_no % 2 == 0 else list(reversed(arms))


def chosen(names: str, known: Sequence[str]) -> list[str]:
    """The arms of a comma-separated list, beside the two that make the ratio; the usual ones for an empty list."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if unknown := [name for name in wanted if name not in known]:
        raise CouldNotMeasure(f"no arm {', '.join(unknown)}; there are {', '.join(known)}")
    return [name for name in known if name in ((*wanted, OURS, LLM_EMBED) if wanted else DEFAULT_ARMS)]


def measure(options: Options, say: Callable[[str], None]) -> Report:
    count = int(str(options.extra["texts"] or (TEXTS_QUICK if options.quick else TEXTS)))
    rounds = int(str(options.extra["rounds"] or (ROUNDS_QUICK if options.quick else ROUNDS)))
    if count < embeddings_arms.SHOWN or rounds < 1:
        raise CouldNotMeasure(f"needs {embeddings_arms.SHOWN} texts or more, and a round")
    given = options.input
    texts = embedding_texts.short_texts(count) if given is None else embedding_texts.texts_of(given, count)
    plan = Plan.of(options, texts)
    every = embeddings_arms.arms(plan)
    names = chosen(str(options.extra["arms"] or ""), list(every))
    measured = {name: Measured(count, every[name].facts) for name in names}
    for round_no in range(rounds):
        for name in order_of(round_no, names):
            began = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="nightbatch-bench-", ignore_cleanup_errors=True) as scratch:
                one = every[name].run(Path(scratch))
            measured[name].runs.append(one)
            say(
                f"round {round_no + 1} of {rounds}, {name}: {count / one.seconds:.0f} texts/s, {one.seconds:.1f} s, "
                f"{time.monotonic() - began:.0f} s with start and stop"
            )
    return _report(measured, count, given)


def _report(measured: Mapping[str, Measured], count: int, given: Path | None) -> Report:
    baseline = measured[LLM_EMBED].runs[0]
    for name, arm in measured.items():
        for one in arm.runs:
            check_alike(name, one, baseline)
    source = "sentences of GSM8K questions" if given is None else given.name
    return Report(
        figures=headline(measured),
        arms=[Arm(name, one.facts, one.figures()) for name, one in measured.items()],
        notes=[
            f"Input: {count} texts ({source}) of {baseline.prompt_tokens / count:.1f} tokens on average.",
            f"Every arm read the same number of tokens; {embeddings_arms.SHOWN} vectors of each run were compared.",
        ],
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--texts", type=int, help=f"texts to embed (default {TEXTS}, quick {TEXTS_QUICK})")
    parser.add_argument("--rounds", type=int, help=f"alternations (default {ROUNDS}, quick {ROUNDS_QUICK})")
    parser.add_argument(
        "--arms", metavar="A,B", help=f"these beside {OURS} and {LLM_EMBED}: {', '.join(embeddings_arms.SHAPES)}"
    )


def main(argv: Sequence[str]) -> int:
    return run(argv, name="embeddings", description=DESCRIPTION, measure=measure, add_arguments=add_arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
