"""How fast input becomes work: upload, index and validate many lines; and what a batch of ten lines costs.

A real server process on the simulated engine and the official client. The server and its workers are bound to one core
and the client to another (where there are two), so `mib_per_s` is what one core takes in. Time runs from the first byte
sent to the moment the batch has left `validating`, as the client sees it.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import client, examples, intake_lines
from benchmarks.form import Arm, Figure, Options, Plain, Report, run, summarised
from benchmarks.process_tree import TreeSampler
from benchmarks.server_process import ServerProcess

DESCRIPTION = "Upload, index and validate large inputs on a real server; overhead of a batch of ten lines."
LINE_BYTES = 1_024
SIZES = (50_000, 500_000)
ROUNDS, ROUNDS_QUICK = 5, 3
SMALL_LINES = 10
SMALL_BATCHES, SMALL_BATCHES_QUICK = 30, 12
VALIDATION_SECONDS_MAX = 600
SMALL_BATCH_SECONDS_MAX = 60
SMALL_POLL_SECONDS = 0.002
MIB = 2**20
INSTANT_ENGINE = """\
[[models]]
id = "instant"
engine = "simulated"
profile = "gpu-8b"
time_scale = 0.0
"""


@dataclass(frozen=True, slots=True)
class Intake:
    """One file taken in."""

    bytes: int
    lines: int
    upload_seconds: float
    validate_seconds: float
    server_cpu_seconds: float
    client_cpu_seconds: float
    rss_growth_bytes: int
    rss_peak_bytes: int

    @property
    def seconds(self) -> float:
        return self.upload_seconds + self.validate_seconds


def split_cores(cores: Collection[int]) -> tuple[frozenset[int], frozenset[int]]:
    """(server, client): one core for the server, the others for the client, or the same one when there is no other."""
    first, *others = sorted(cores)
    return frozenset({first}), frozenset(others or [first])


@contextmanager
def bound_to(cores: Collection[int]) -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(frozen=True, slots=True)
class Behind:
    """What the server is started with. None of the engine's speed enters, but the lines must name a served model."""

    engine: str
    arguments: tuple[str, ...] = ()
    config: str = ""

    @classmethod
    def of(cls, options: Options) -> Behind:
        if options.upstream:
            return cls("upstream", ("--upstream", options.upstream))
        if options.model:
            flags = ("--", *options.engine_args) if options.engine_args else ()
            return cls("vllm", ("--model", options.model, *flags))
        return cls("simulated, takes no time", config=INSTANT_ENGINE)

    def server(self, cores: Collection[int]) -> ServerProcess:
        return ServerProcess(self.arguments, config=self.config, cores=cores)


def take_in(behind: Behind, cores: Collection[int], folder: Path, make_input: Callable[[str], Path]) -> Intake:
    """On a fresh server, so that memory starts from an idle process each time. A small file goes before: starting the
    first index worker counts in memory, but it is no part of how fast a file is taken in."""
    with behind.server(cores) as server:
        api = client.connect(server.url)
        model = client.first_model(api)
        path, warm_up = make_input(model), small_input(folder, model)
        lines = path.read_bytes().count(b"\n")
        with TreeSampler(server.pid) as tree:
            client.upload(api, warm_up)
            tree.count_cpu_from_here()
            client_cpu = time.process_time()
            began = time.perf_counter()
            file_id = client.upload(api, path)
            uploaded = time.perf_counter()
            batch = client.create(api, file_id)
            client.wait_until_not(api, batch, "validating", seconds_max=VALIDATION_SECONDS_MAX)
            validated = time.perf_counter()
        return Intake(
            bytes=path.stat().st_size,
            lines=lines,
            upload_seconds=uploaded - began,
            validate_seconds=validated - uploaded,
            server_cpu_seconds=tree.cpu_seconds,
            client_cpu_seconds=time.process_time() - client_cpu,
            rss_growth_bytes=tree.rss_growth_bytes,
            rss_peak_bytes=tree.rss_peak_bytes,
        )


def small_input(folder: Path, model: str) -> Path:
    path = folder / "small.jsonl"
    intake_lines.write(path, SMALL_LINES, model=model, line_bytes=LINE_BYTES)
    return path


def small_batches(behind: Behind, cores: Collection[int], folder: Path, count: int) -> list[float]:
    """Seconds from `create` to seeing `completed`; the first batch warms up and is not counted."""
    seconds = []
    with behind.server(cores) as server:
        api = client.connect(server.url)
        path = small_input(folder, client.first_model(api))
        for _ in range(count + 1):
            file_id = client.upload(api, path)
            began = time.perf_counter()
            batch = client.create(api, file_id)
            client.wait_until_done(api, batch, seconds_max=SMALL_BATCH_SECONDS_MAX, poll_seconds=SMALL_POLL_SECONDS)
            seconds.append(time.perf_counter() - began)
    return seconds[1:]


def figures_of(taken: Sequence[Intake]) -> dict[str, Figure]:
    return {
        "mib_per_s": summarised([one.bytes / MIB / one.seconds for one in taken], "MiB/s"),
        "lines_per_s": summarised([one.lines / one.seconds for one in taken], "lines/s"),
        "mib_per_server_cpu_s": summarised([one.bytes / MIB / one.server_cpu_seconds for one in taken], "MiB/CPU s"),
        "upload_s": summarised([one.upload_seconds for one in taken], "s"),
        "validate_s": summarised([one.validate_seconds for one in taken], "s"),
        "server_cpu_s": summarised([one.server_cpu_seconds for one in taken], "CPU s"),
        "client_cpu_s": summarised([one.client_cpu_seconds for one in taken], "CPU s"),
        "rss_growth_mib": summarised([one.rss_growth_bytes / MIB for one in taken], "MiB"),
        "rss_peak_mib": summarised([one.rss_peak_bytes / MIB for one in taken], "MiB"),
    }


def measure(options: Options, say: Callable[[str], None]) -> Report:
    server_cores, client_cores = split_cores(os.sched_getaffinity(0))
    behind = Behind.of(options)
    facts: dict[str, Plain] = {
        "server_cores": len(server_cores),
        "client_cores": len(client_cores),
        "shared_core": server_cores == client_cores,
        "engine": behind.engine,
    }
    arms = []
    with tempfile.TemporaryDirectory(prefix="nightbatch-bench-") as scratch, bound_to(client_cores):
        folder = Path(scratch)
        for label, make_input in inputs(options, folder):
            taken = []
            for number in range(ROUNDS_QUICK if options.quick else ROUNDS):
                taken.append(take_in(behind, server_cores, folder, make_input))
                say(f"{label}, round {number + 1}: {taken[-1].seconds:.2f} s")
            arms.append(Arm(label, {**facts, "bytes": taken[-1].bytes, "lines": taken[-1].lines}, figures_of(taken)))
        count = SMALL_BATCHES_QUICK if options.quick else SMALL_BATCHES
        say(f"{count} batches of {SMALL_LINES} lines")
        overheads = small_batches(behind, server_cores, folder, count)
    largest = arms[-1].figures
    return Report(
        figures={
            "mib_per_s": largest["mib_per_s"],
            "lines_per_s": largest["lines_per_s"],
            "rss_growth_mib": largest["rss_growth_mib"],
            "small_batch_overhead_s": summarised(overheads, "s"),
        },
        arms=arms,
        notes=["The figures above the arms are those of the largest input."],
    )


def inputs(options: Options, folder: Path) -> Iterator[tuple[str, Callable[[str], Path]]]:
    """(label, function of the model's name that writes the file), smallest first; a file is written once."""
    if options.input is not None:
        lines = examples.read_lines(options.input)
        path = folder / "given.jsonl"
        yield "given input", lambda model: examples.write_input(path, lines, model, count=len(lines))
        return
    for count in SIZES:
        yield f"{count:,} lines", _generated(folder / f"{count}.jsonl", count)


def _generated(path: Path, count: int) -> Callable[[str], Path]:
    def make(model: str) -> Path:
        if not path.exists():
            intake_lines.write(path, count, model=model, line_bytes=LINE_BYTES)
        return path

    return make


def main(argv: Sequence[str]) -> int:
    return run(argv, name="intake", description=DESCRIPTION, measure=measure)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
