"""From how many lines on a batch is done sooner than the same requests sent 64 at a time (`throughput --smallest-job`).

A job is timed as whoever wants the answers waits for it: as a batch from the first byte of the upload to the last byte
of the output file, with the parallel client from its first send to its last answer. Both servers run already and both
clients are warm. Each life of a server answers all sizes, the smallest several times; lives alternate.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate, pairwise
from pathlib import Path

from benchmarks import client, examples, statistics, throughput_arms, vllm_baselines
from benchmarks.anonymous import argument
from benchmarks.form import Arm, CouldNotMeasure, Figure, Plain, Report, summarised
from benchmarks.throughput_arms import Plan

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
SIZES_QUICK = SIZES[:8]
WARM_UP_LINES = 4
"""The first job of a life, not counted: connections, the grammar of a schema, the index worker."""
REPEATED_LINES = 16
REPEATS_MAX = 5

Seconds = Mapping[int, float]
"""By size of the job."""

Life = Callable[[Path, Sequence[int]], list[float]]
"""Starts a server, sends it jobs of these sizes one after another, and returns the seconds of each."""


def jobs_of(sizes: Sequence[int]) -> list[int]:
    """Small jobs are over soon and vary much: they are sent several times."""
    repeats = [max(1, min(REPEATS_MAX, REPEATED_LINES // size)) for size in sizes]
    return [WARM_UP_LINES, *(size for size, count in zip(sizes, repeats, strict=True) for _ in range(count))]


def by_size(jobs: Sequence[int], seconds: Sequence[float]) -> dict[int, float]:
    """The median of each size in one life; the warm-up is left out."""
    found = defaultdict(list)
    for size, one in zip(jobs[1:], seconds[1:], strict=True):
        found[size].append(one)
    return {size: statistics.median(several) for size, several in found.items()}


def crossing(ratios: Sequence[tuple[int, float]]) -> float | None:
    """The number of lines from which on no measured size has a ratio below 1, read off between the last that has and
    the next on logarithmic scales; None when the largest has."""
    behind = [place for place, (_, ratio) in enumerate(ratios) if ratio < 1]
    if not behind:
        return float(ratios[0][0])
    if behind[-1] == len(ratios) - 1:
        return None
    (below, low), (above, high) = ratios[behind[-1]], ratios[behind[-1] + 1]
    share = math.log(low) / math.log(low / high)
    return float(below * (above / below) ** share)


def report(ours: Sequence[Seconds], theirs: Sequence[Seconds], facts: Mapping[str, Mapping[str, Plain]]) -> Report:
    """One of `ours` and of `theirs` a round. A ratio above 1: the batch was sooner."""
    sizes = sorted(ours[0])
    ratios = [{size: their[size] / our[size] for size in sizes} for our, their in zip(ours, theirs, strict=True)]
    found = [crossing([(size, one[size]) for size in sizes]) for one in ratios]
    crossed = [one for one in found if one is not None]
    first, last = sizes[0], sizes[-1]
    figures = {
        f"wait_ratio_{first}_lines": summarised([one[first] for one in ratios], "x"),
        f"wait_ratio_{last}_lines": summarised([one[last] for one in ratios], "x"),
        "fixed_cost_s": summarised([our[first] - their[first] for our, their in zip(ours, theirs, strict=True)], "s"),
    }
    if len(crossed) == len(found):
        figures = {"smallest_job_lines": summarised(crossed, "lines"), **figures}
    return Report(
        figures=figures,
        arms=[
            Arm("ours", facts["ours"], _figures(ours, sizes, "s")),
            Arm("parallel_client", facts["parallel_client"], _figures(theirs, sizes, "s")),
            Arm("ratio", {"is": "seconds of parallel_client by those of ours"}, _figures(ratios, sizes, "x")),
        ],
        notes=[_in_words(found, last)],
    )


def _figures(rounds: Sequence[Seconds], sizes: Sequence[int], unit: str) -> dict[str, Figure]:
    return {f"{size}_lines": summarised([one[size] for one in rounds], unit) for size in sizes}


def _in_words(found: Sequence[float | None], largest: int) -> str:
    crossed = [one for one in found if one is not None]
    if len(crossed) < len(found):
        missing = len(found) - len(crossed)
        return f"In {missing} of {len(found)} rounds the parallel client was sooner still with {largest} lines."
    lines = math.ceil(statistics.median(crossed))
    return f"From about {lines} lines on a batch is done sooner than the same requests sent one by one."


def measure(plan: Plan, source: str, rounds: int, *, quick: bool, say: Callable[[str], None]) -> Report:
    sizes = SIZES_QUICK if quick else SIZES
    jobs = jobs_of(sizes)
    lives: dict[str, Life] = {
        "ours": lambda folder, sizes: our_life(plan, folder, sizes),
        "parallel_client": lambda folder, sizes: their_life(plan, folder, sizes),
    }
    seconds: dict[str, list[Seconds]] = {name: [] for name in lives}
    for round_no in range(rounds):
        for name in list(lives) if round_no % 2 == 0 else list(reversed(lives)):
            with tempfile.TemporaryDirectory(prefix="nightbatch-bench-", ignore_cleanup_errors=True) as scratch:
                seconds[name].append(by_size(jobs, lives[name](Path(scratch), jobs)))
            shown = ", ".join(f"{size}: {one:.2f} s" for size, one in seconds[name][-1].items())
            say(f"round {round_no + 1} of {rounds}, {name}: {shown}")
    made = report(seconds["ours"], seconds["parallel_client"], _facts(plan))
    return Report(made.figures, made.arms, [*made.notes, _input(plan, source, jobs)])


def _input(plan: Plan, source: str, jobs: Sequence[int]) -> str:
    distinct = min(sum(jobs), len(plan.lines))
    return f"Input: {source}, {sum(jobs)} lines in the life of a server, {distinct} of them different."


def _facts(plan: Plan) -> dict[str, dict[str, Plain]]:
    if plan.upstream is not None:
        facts: dict[str, Plain] = {"upstream": argument(plan.upstream)}
    else:
        flags, environment = throughput_arms.engine_flags(plan), throughput_arms.engine_environment(plan)
        facts = {**throughput_arms.engine_facts(plan, flags, environment), "clock": "the client's"}
    return {"ours": facts, "parallel_client": {**facts, "inflight_max": plan.inflight_max}}


def our_life(plan: Plan, folder: Path, sizes: Sequence[int]) -> list[float]:
    with throughput_arms.our_server(plan, {}) as server:
        return through_batches(server.url, plan.lines, folder, sizes)


def through_batches(url: str, lines: Sequence[bytes], folder: Path, sizes: Sequence[int]) -> list[float]:
    api = client.connect(url)
    model, endpoint = client.first_model(api), client.endpoint_of(lines[0])
    written = list(examples.with_model(lines, model, count=sum(sizes)))
    seconds = []
    for start, stop in pairwise(accumulate(sizes, initial=0)):
        path = folder / "job.jsonl"
        path.write_bytes(b"".join(line + b"\n" for line in written[start:stop]))
        began = time.perf_counter()
        batch = client.create(api, client.upload(api, path), endpoint)
        answers = client.download(api, client.watch(api, batch, seconds_max=vllm_baselines.RUN_SECONDS_MAX))
        seconds.append(time.perf_counter() - began)
        if (answered := answers.count(b"\n")) != stop - start:
            raise CouldNotMeasure(f"a batch of {stop - start} lines has {answered} in its output file")
    return seconds


def their_life(plan: Plan, folder: Path, sizes: Sequence[int]) -> list[float]:
    with _their_server(plan, folder) as url:
        path = examples.write_input(folder / "input.jsonl", plan.lines, plan.model, count=sum(sizes))
        return vllm_baselines.send_jobs(url, path, folder, sizes=sizes, inflight_max=plan.inflight_max)


@contextmanager
def _their_server(plan: Plan, folder: Path) -> Iterator[str]:
    if plan.upstream is not None:
        yield plan.upstream
        return
    flags, environment = throughput_arms.engine_flags(plan), throughput_arms.engine_environment(plan)
    with vllm_baselines.api_server(plan.model, flags, environment, folder) as url:
        yield url
