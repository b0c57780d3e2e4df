"""What it saves to answer identical requests once, and what it costs to keep answers for that.

A real server on an engine that takes no time: how many lines still reach the engine is the saving, whatever the engine;
the time that is left is what the server itself takes. Server and client share the machine's cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import openai
from openai.types import Batch

from benchmarks import client, scale_run
from benchmarks.form import Arm, CouldNotMeasure, Figure, Options, Plain, Report, run
from benchmarks.process_tree import TreeSampler

DESCRIPTION = "The same file again with 2 % new lines, and a file of repetitions: what still runs, what keeping costs."
LINES, LINES_QUICK = 200_000, 50_000
NEW_SHARE = 0.02
REPETITIONS = 10
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Night:
    """One batch: from its creation until it was completed."""

    lines: int
    reused: int
    seconds: float
    cpu_seconds: float
    rss_peak_bytes: int

    @property
    def run_share(self) -> float:
        """The part of the lines that an engine answered."""
        return 1 - self.reused / self.lines


def a_line(number: int, question: int) -> str:
    said = f"Message {question:08d}: it was said to be here within a week, and nobody can tell me where it is. "
    body = {
        "model": scale_run.MODEL,
        "max_tokens": 8,
        "temperature": 0,
        "messages": [{"role": "user", "content": said * 3}],
    }
    return json.dumps({"custom_id": f"line-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body})


def write(path: Path, questions: Iterable[int]) -> Path:
    with path.open("w", encoding="ascii") as file:
        file.writelines(a_line(number, question) + "\n" for number, question in enumerate(questions))
    return path


def second_night(lines: int) -> list[int]:
    """The questions of the file of last night, some of them replaced by new ones all over it."""
    step = round(1 / NEW_SHARE)
    return [lines + number if number % step == 0 else number for number in range(lines)]


def reused_of(batch: Batch) -> int:
    reused = (batch.model_extra or {}).get("reused_requests")
    if not isinstance(reused, int):
        raise CouldNotMeasure("the server does not say how many lines were answered with the answer of another")
    return reused


def night(api: openai.OpenAI, pid: int, path: Path, lines: int, reuse: str) -> Night:
    file_id = client.upload(api, path)
    with TreeSampler(pid, sample_seconds=scale_run.SAMPLE_SECONDS) as tree:
        began = time.perf_counter()
        batch = api.batches.create(
            input_file_id=file_id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            extra_body={"reuse": reuse},
        )
        batch = client.wait_until_done(
            api, batch, seconds_max=scale_run.RUN_SECONDS_MAX, poll_seconds=scale_run.poll_seconds(lines)
        )
        seconds = time.perf_counter() - began
    return Night(lines, reused_of(batch), seconds, tree.cpu_seconds, tree.rss_peak_bytes)


def figures_of(one: Night) -> dict[str, Figure]:
    return {
        "run_share": Figure(one.run_share, "ratio", one.lines),
        "lines_per_s": Figure(one.lines / one.seconds, "lines/s", 1),
        "cpu_s_per_1000_lines": Figure(one.cpu_seconds / one.lines * 1000, "CPU s", 1),
        "rss_peak_mib": Figure(one.rss_peak_bytes / MIB, "MiB", 1),
    }


def measure(options: Options, say: Callable[[str], None]) -> Report:
    if options.model or options.upstream or options.input:
        raise CouldNotMeasure("reuse has an engine and an input of its own: leave out --model, --upstream and --input")
    lines = cast("int | None", options.extra["lines"]) or (LINES_QUICK if options.quick else LINES)
    nights: dict[str, Night] = {}
    with tempfile.TemporaryDirectory(prefix="nightbatch-bench-") as scratch, scale_run.server() as running:
        api = client.connect(running.url)
        first = write(Path(scratch) / "first.jsonl", range(lines))
        second = write(Path(scratch) / "second.jsonl", second_night(lines))
        repeated = write(Path(scratch) / "repeated.jsonl", (number % (lines // REPETITIONS) for number in range(lines)))
        for name, path, reuse in (
            ("every line runs", first, "off"),
            ("first night, all new", first, "server"),
            ("second night, 2 % new", second, "server"),
            (f"each question {REPETITIONS} times", repeated, "batch"),
        ):
            nights[name] = night(api, running.pid, path, lines, reuse)
            say(f"{name}: {nights[name].reused:,} of {lines:,} lines reused in {nights[name].seconds:.2f} s")
    off, new, again, many = nights.values()
    facts: dict[str, Plain] = {"engine": "simulated, instant", "lines": lines}
    return Report(
        figures={
            "run_share_second_night": Figure(again.run_share, "ratio", lines),
            "run_share_repetitions": Figure(many.run_share, "ratio", lines),
            "keeping_cpu_ratio": Figure(new.cpu_seconds / off.cpu_seconds, "ratio", 1),
            "reused_lines_per_s": Figure(again.lines / again.seconds, "lines/s", 1),
        },
        arms=[Arm(name, facts, figures_of(one)) for name, one in nights.items()],
        notes=["On an engine that takes time, a run takes about run_share of it."],
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lines", type=_lines, metavar="N", help="lines of each file")


def _lines(text: str) -> int:
    lines = int(text)
    if lines < 1_000:
        raise argparse.ArgumentTypeError("at least 1,000 lines")
    return lines


def main(argv: Sequence[str]) -> int:
    return run(argv, name="reuse", description=DESCRIPTION, measure=measure, add_arguments=add_arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
