"""Where the time of a small batch goes: from the first byte of its upload to the last byte of its results, by phase.

A real server on an engine that takes no time, the official client, and the server's own markers between them. The
phases follow one another without a gap, so they add up to what the client waited. What is not the engine is the fixed
cost of a batch; on a real engine (`--model`, `--upstream`) the engine's phase is beside it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from openai import OpenAI

from benchmarks import client, examples, marked_server
from benchmarks.form import Arm, CouldNotMeasure, Figure, Options, Plain, Report, run, summarised
from benchmarks.intake import Behind
from benchmarks.marked_server import Passing
from benchmarks.server_process import ServerProcess

DESCRIPTION = "Where the time of a small batch goes, phase by phase, from upload to downloaded results."
SIZES = (1, 64, 512)
BATCHES, BATCHES_QUICK = 40, 12
ROUNDS, ROUNDS_QUICK = 5, 3
AT_ONCE = 16
"""Clients that send a batch of one line after another, all at the same time."""
INPUT_PATTERN = "*banking77*.jsonl"
BATCH_SECONDS_MAX = 600.0

BEGAN, UPLOADED, SEEN, DOWNLOADED = "client.began", "client.uploaded", "client.seen", "client.downloaded"
ENGINE = "engine"

PHASES = (
    ("upload.received", "receive"),
    ("upload.indexed", "index"),
    ("upload.committed", "file_row"),
    (UPLOADED, "answer"),
    ("batch.created", "create"),
    ("intake.ordered", "order"),
    ("intake.admitted", "admit"),
    ("shard.leased", "lease"),
    ("request.started", "open"),
    ("request.answered", ENGINE),
    ("append.synced", "append"),
    ("shard.sealed", "seal"),
    ("finalize.started", "begin_finalize"),
    ("finalize.composed", "compose"),
    ("finalize.committed", "commit"),
    (SEEN, "see"),
    (DOWNLOADED, "download"),
)
"""(The moment at which it ends, its name). It begins where the one before it ended."""

LAST_PASSING = frozenset({"request.answered", "append.synced"})
"""Passed once a line or a group: the last one counts, of all others the first."""


@dataclass(frozen=True, slots=True)
class Walk:
    """One batch as its client saw it, in monotonic seconds."""

    began: float
    uploaded: float
    seen: float
    downloaded: float

    @property
    def seconds(self) -> float:
        return self.downloaded - self.began


def phases_of(walk: Walk, passings: Sequence[Passing]) -> dict[str, float]:
    """Seconds by phase. Only one batch may have been under way."""
    moments = {UPLOADED: walk.uploaded, SEEN: walk.seen, DOWNLOADED: walk.downloaded}
    for passing in passings:
        if walk.began <= passing.at <= walk.downloaded and (
            passing.marker in LAST_PASSING or passing.marker not in moments
        ):
            moments[passing.marker] = passing.at
    if missing := [moment for moment, _ in PHASES if moment not in moments]:
        raise CouldNotMeasure(f"a batch did not pass {', '.join(missing)}")
    times = [walk.began, *(moments[moment] for moment, _ in PHASES)]
    return {name: end - start for (_, name), (start, end) in zip(PHASES, pairwise(times), strict=True)}


def walk_through(api: OpenAI, path: Path, endpoint: client.Endpoint) -> Walk:
    began = time.monotonic()
    file_id = client.upload(api, path)
    uploaded = time.monotonic()
    batch = client.watch(api, client.create(api, file_id, endpoint), seconds_max=BATCH_SECONDS_MAX)
    seen = time.monotonic()
    client.download(api, batch)
    return Walk(began, uploaded, seen, time.monotonic())


@dataclass(frozen=True, slots=True)
class Round:
    """A fresh server: its very first batch, the phases of batches by their size, and how many a second came through
    when `AT_ONCE` clients sent them."""

    first: Walk
    phases: Mapping[int, Sequence[Mapping[str, float]]]
    batches_per_s: float


def rate_of(walks: Sequence[Walk]) -> float:
    return len(walks) / (max(walk.downloaded for walk in walks) - min(walk.began for walk in walks))


def at_once(api: OpenAI, path: Path, endpoint: client.Endpoint, count: int) -> float:
    with ThreadPoolExecutor(AT_ONCE) as clients:
        return rate_of(list(clients.map(lambda _no: walk_through(api, path, endpoint), range(count))))


def one_round(behind: Behind, folder: Path, lines: Sequence[bytes], endpoint: client.Endpoint, count: int) -> Round:
    noted = folder / "markers"
    server = ServerProcess(
        behind.arguments,
        config=behind.config,
        environment={marked_server.FILE_VARIABLE: str(noted)},
        program=("benchmarks.marked_server", "serve"),
    )
    walks: dict[int, list[Walk]] = {}
    with server:
        api = client.connect(server.url)
        model = client.first_model(api)
        paths = {size: examples.write_input(folder / f"{size}.jsonl", lines, model, count=size) for size in SIZES}
        first = walk_through(api, paths[SIZES[0]], endpoint)
        for size, path in paths.items():
            walks[size] = [walk_through(api, path, endpoint) for _ in range(count)]
        rate = at_once(api, paths[SIZES[0]], endpoint, 4 * count)
    passings = marked_server.read(noted)
    return Round(first, {size: [phases_of(walk, passings) for walk in some] for size, some in walks.items()}, rate)


def figures_of(phases: Sequence[Mapping[str, float]]) -> dict[str, Figure]:
    whole = [sum(one.values()) for one in phases]
    return {
        "batch_s": summarised(whole, "s"),
        "fixed_cost_s": summarised([seconds - one[ENGINE] for seconds, one in zip(whole, phases, strict=True)], "s"),
        **{f"{name}_ms": summarised([1000 * one[name] for one in phases], "ms") for _, name in PHASES},
    }


def measure(options: Options, say: Callable[[str], None]) -> Report:
    source = options.input or examples.find(INPUT_PATTERN)
    lines = examples.read_lines(source)
    behind, endpoint = Behind.of(options), client.endpoint_of(lines[0])
    rounds = int(str(options.extra["rounds"] or (ROUNDS_QUICK if options.quick else ROUNDS)))
    count = int(str(options.extra["batches"] or (BATCHES_QUICK if options.quick else BATCHES)))
    ran: list[Round] = []
    phases: dict[int, list[Mapping[str, float]]] = {size: [] for size in SIZES}
    for round_no in range(rounds):
        with tempfile.TemporaryDirectory(prefix="nightbatch-bench-", ignore_cleanup_errors=True) as scratch:
            ran.append(one_round(behind, Path(scratch), lines, endpoint, count))
        for size, some in ran[-1].phases.items():
            phases[size] += some
        say(
            f"round {round_no + 1} of {rounds}: the first batch {ran[-1].first.seconds:.3f} s, "
            f"{ran[-1].batches_per_s:.1f} batches a second with {AT_ONCE} clients"
        )
    facts: dict[str, Plain] = {"engine": behind.engine}
    arms = [Arm(f"{size} lines", {**facts, "lines": size}, figures_of(some)) for size, some in phases.items()]
    return Report(
        figures={
            "fixed_cost_s": arms[0].figures["fixed_cost_s"],
            "first_batch_s": summarised([one.first.seconds for one in ran], "s"),
            f"batches_per_s_{AT_ONCE}_clients": summarised([one.batches_per_s for one in ran], "batches/s"),
            f"fixed_cost_{SIZES[-1]}_lines_s": arms[-1].figures["fixed_cost_s"],
        },
        arms=arms,
        notes=[
            f"Input: {source.name}. fixed_cost_s is of one line; first_batch_s is the first batch of a fresh server.",
            "The client asks for the batch after 20 ms, and then after a twentieth of what it has waited (see_ms).",
        ],
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, help=f"fresh servers (default {ROUNDS}, quick {ROUNDS_QUICK})")
    parser.add_argument(
        "--batches", type=int, help=f"batches of each size and round (default {BATCHES}, quick {BATCHES_QUICK})"
    )


def main(argv: Sequence[str]) -> int:
    return run(argv, name="small_batch", description=DESCRIPTION, measure=measure, add_arguments=add_arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
