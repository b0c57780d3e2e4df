"""One run of the scale benchmark: a file through a real server, its phases timed, its memory and CPU sampled."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import openai
from openai.types import Batch

from benchmarks import client, scale_lines
from benchmarks.form import CouldNotMeasure
from benchmarks.process_tree import TreeSampler
from benchmarks.server_process import ServerProcess

RUN_SECONDS_MAX = 1_800
POLL_SECONDS_MIN, POLL_SECONDS_MAX = 0.01, 0.25
SAMPLE_SECONDS = 0.2
METRICS_POLL_SECONDS = 0.02
DOWNLOAD_BYTES = 1024 * 1024
MODEL = "instant"
INSTANT_ENGINE = f"""\
[[models]]
id = "{MODEL}"
engine = "simulated"
profile = "instant"
"""


@dataclass(frozen=True, slots=True)
class Run:
    """Seconds by phase, from the first byte sent to the last byte received. `finalize_seconds` is the server's own
    figure; it lies within the time between the last line's result and `completed`."""

    lines: int
    upload_seconds: float
    validate_seconds: float
    run_seconds: float
    finalize_seconds: float
    download_seconds: float
    seconds: float
    cpu_seconds: float
    client_cpu_seconds: float
    rss_idle_bytes: int
    rss_peak_bytes: int
    processes: int


@dataclass(frozen=True, slots=True)
class Restart:
    """A server killed with half of a batch done: from its new start until it answers, until a result of the rest is
    durable; and how long it then took to write the files of the whole batch."""

    lines: int
    done_before: int
    ready_seconds: float
    resumed_seconds: float
    finalize_seconds: float


def server() -> ServerProcess:
    return ServerProcess((), config=INSTANT_ENGINE)


def poll_seconds(lines: int) -> float:
    """Often for a small batch, rarely for a long one: who asks takes a core from who works."""
    return min(POLL_SECONDS_MAX, max(POLL_SECONDS_MIN, lines / 400_000))


def through(path: Path, lines: int, folder: Path) -> Run:
    """The whole way of a file, on a fresh server, so that memory starts from an idle process."""
    with server() as running, TreeSampler(running.pid, sample_seconds=SAMPLE_SECONDS) as tree:
        api = client.connect(running.url)
        cpu, began = time.process_time(), time.perf_counter()
        file_id = client.upload(api, path)
        uploaded = time.perf_counter()
        batch = client.wait_until_not(
            api, client.create(api, file_id), "validating", seconds_max=RUN_SECONDS_MAX, poll_seconds=POLL_SECONDS_MIN
        )
        validated = time.perf_counter()
        batch = client.wait_until_done(api, batch, seconds_max=RUN_SECONDS_MAX, poll_seconds=poll_seconds(lines))
        completed = time.perf_counter()
        result = download(api, batch, folder / "results.jsonl")
        ended = time.perf_counter()
        client_cpu = time.process_time() - cpu
        finalize_seconds = metric(running, "nightbatch_finalize_seconds_sum")
    check(result, lines)
    return Run(
        lines=lines,
        upload_seconds=uploaded - began,
        validate_seconds=validated - uploaded,
        run_seconds=completed - validated,
        finalize_seconds=finalize_seconds,
        download_seconds=ended - completed,
        seconds=ended - began,
        cpu_seconds=tree.cpu_seconds,
        client_cpu_seconds=client_cpu,
        rss_idle_bytes=tree.rss_start_bytes,
        rss_peak_bytes=tree.rss_peak_bytes,
        processes=tree.processes_peak,
    )


@dataclass(frozen=True, slots=True)
class Planned:
    """A file that is only taken in: its batch is cancelled as soon as it is in progress."""

    lines: int
    upload_seconds: float
    validate_seconds: float
    rss_idle_bytes: int
    rss_peak_bytes: int


def planned(path: Path, lines: int) -> Planned:
    with server() as running, TreeSampler(running.pid, sample_seconds=SAMPLE_SECONDS) as tree:
        api = client.connect(running.url)
        began = time.perf_counter()
        file_id = client.upload(api, path)
        uploaded = time.perf_counter()
        batch = client.create(api, file_id)
        client.wait_until_not(api, batch, "validating", seconds_max=RUN_SECONDS_MAX, poll_seconds=POLL_SECONDS_MIN)
        validated = time.perf_counter()
        api.batches.cancel(batch.id)
    return Planned(lines, uploaded - began, validated - uploaded, tree.rss_start_bytes, tree.rss_peak_bytes)


def restarted(path: Path, lines: int, folder: Path, say: Callable[[str], None]) -> Restart:
    with server() as running:
        api = client.connect(running.url)
        batch = client.create(api, client.upload(api, path))
        batch = client.wait_until_not(api, batch, "validating", seconds_max=RUN_SECONDS_MAX)
        while (done := done_lines(batch)) < lines / 2 and batch.status == "in_progress":
            time.sleep(poll_seconds(lines))
            batch = api.batches.retrieve(batch.id)
        if batch.status != "in_progress":
            raise CouldNotMeasure(f"the batch was {batch.status} before it could be interrupted: give it more lines")
        say(f"killing the server with {done:,} of {lines:,} lines done")
        running.kill()
        began = time.perf_counter()
        running.start()
        running.wait_for(f"{running.root}/readyz")
        ready = time.perf_counter()
        while metric(running, 'nightbatch_lines_done_total{outcome="completed"}') <= 0:
            time.sleep(METRICS_POLL_SECONDS)
        resumed = time.perf_counter()
        batch = client.wait_until_done(api, batch, seconds_max=RUN_SECONDS_MAX, poll_seconds=poll_seconds(lines))
        check(download(api, batch, folder / "results.jsonl"), lines)
        finalize_seconds = metric(running, "nightbatch_finalize_seconds_sum")
    return Restart(lines, done, ready - began, resumed - began, finalize_seconds)


def done_lines(batch: Batch) -> int:
    return batch.request_counts.completed if batch.request_counts else 0


def download(api: openai.OpenAI, batch: Batch, path: Path) -> Path:
    if batch.output_file_id is None:
        raise CouldNotMeasure("the batch has no output file")
    with api.files.with_streaming_response.content(batch.output_file_id) as answer, path.open("wb") as file:
        for chunk in answer.iter_bytes(DOWNLOAD_BYTES):
            file.write(chunk)
    return path


def check(result: Path, lines: int) -> None:
    """A run that lost a line, or wrote one twice, measures nothing."""
    found = scale_lines.lines_in_order(result)
    result.unlink()
    if found != lines:
        what = "are not those of the input, in its order" if found < 0 else f"are {found:,}"
        raise CouldNotMeasure(f"{lines:,} lines went in, and the result lines {what}")


def metric(running: ServerProcess, series: str) -> float:
    """The value of one series; 0 while there is none."""
    with urllib.request.urlopen(f"{running.root}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    return float(found.group(1)) if found else 0.0
