"""vLLM without us: its own run_batch, and its own API server behind a parallel client. Each run is a fresh process.

Both are started as modules: the `vllm` command of the CPU build cannot find its own version.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.engine_clock import EngineClock, Window
from benchmarks.form import CouldNotMeasure
from benchmarks.server_process import ChildProcess, free_port, last_lines

RUN_SECONDS_MAX = 7_200
QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


def core_binding(device: str, cores: Sequence[int]) -> dict[str, str]:
    """Give a CPU engine every core: left to itself vLLM keeps one free (on two cores 442 instead of 781 tok/s)."""
    if device != "cpu":
        return {}
    return {"VLLM_CPU_OMP_THREADS_BIND": ",".join(str(core) for core in sorted(cores))}


@dataclass(frozen=True, slots=True)
class Work:
    """One file for one model, the same for every arm."""

    model: str
    flags: Sequence[str]
    input_path: Path
    lines: int
    environment: Mapping[str, str]


def run_batch(work: Work, folder: Path) -> Window:
    clock = EngineClock(folder)
    output = folder / "run-batch-output.jsonl"
    child = ChildProcess(
        [
            *(sys.executable, "-m", "vllm.entrypoints.openai.run_batch"),
            *("-i", str(work.input_path), "-o", str(output), "--model", work.model, *work.flags),
        ],
        folder=folder,
        name="vllm-run-batch",
        environment={**QUIET, **work.environment, **clock.environment()},
    )
    child.start()
    try:
        child.wait(RUN_SECONDS_MAX)
    finally:
        child.stop()
    check_run_batch_output(output.read_bytes().splitlines(), lines=work.lines)
    return clock.window(requests=work.lines)


def check_run_batch_output(output: Sequence[bytes], *, lines: int) -> None:
    """run_batch ends well even when every line was refused: look into its file."""
    refused = [line for line in output if json.loads(line).get("error") is not None]
    succeeded = len(output) - len(refused)
    if succeeded != lines:
        first = f": {refused[0][:300].decode(errors='replace')}" if refused else ""
        raise CouldNotMeasure(f"run_batch answered {succeeded} of {lines} lines{first}")


@dataclass(frozen=True, slots=True)
class Sent:
    """`seconds` is what the client waited, from its first send to its last answer."""

    window: Window
    seconds: float


def parallel_client(work: Work, folder: Path, *, inflight_max: int) -> Sent:
    """vLLM's API server with the same flags, and an asyncio client on the `openai` package in another process."""
    clock = EngineClock(folder)
    with api_server(work.model, work.flags, {**work.environment, **clock.environment()}, folder) as url:
        seconds = send_all(url, work, folder, inflight_max=inflight_max)
    return Sent(clock.window(requests=work.lines), seconds)


@contextmanager
def api_server(model: str, flags: Sequence[str], environment: Mapping[str, str], folder: Path) -> Iterator[str]:
    """vLLM's own API server, ready; what an OpenAI client takes as `base_url`."""
    port = free_port()
    server = ChildProcess(
        [
            *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
            *("--host", "127.0.0.1", "--port", str(port), "--model", model, *flags),
        ],
        folder=folder,
        name="vllm-api-server",
        environment={**QUIET, **environment},
    )
    server.start()
    try:
        server.wait_for(f"http://127.0.0.1:{port}/health")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.stop()


def send_all(url: str, work: Work, folder: Path, *, inflight_max: int) -> float:
    """Run the parallel client to its end; seconds from its first request to its last answer."""
    (seconds,) = send_jobs(url, work.input_path, folder, sizes=[work.lines], inflight_max=inflight_max)
    return seconds


def send_jobs(url: str, input_path: Path, folder: Path, *, sizes: Sequence[int], inflight_max: int) -> list[float]:
    """The file in jobs of so many lines, one after another, by one client; the seconds of each. Reading the file and
    starting the client are in none of them."""
    report_path = folder / "parallel-client.json"
    sender = ChildProcess(
        [
            *(sys.executable, "-P", "-m", "benchmarks.parallel_client"),
            *("--url", url, "--input", str(input_path), "--sizes", ",".join(map(str, sizes))),
            *("--inflight", str(inflight_max), "--output", str(report_path)),
        ],
        folder=folder,
        name="parallel-client",
    )
    sender.start()
    try:
        sender.wait(RUN_SECONDS_MAX)
    finally:
        sender.stop()
    jobs = json.loads(report_path.read_text())
    succeeded = sum(job["succeeded"] for job in jobs)
    if succeeded != sum(sizes):
        raise CouldNotMeasure(
            f"the parallel client got {succeeded} of {sum(sizes)} lines answered:\n{last_lines(sender.log_path)}"
        )
    return [float(job["seconds"]) for job in jobs]
