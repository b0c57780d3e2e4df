"""The arms of `packing` and `stragglers`: vLLM's run_batch, and ours with and without packing.

Each run is a fresh engine, so no arm finds another's prefix cache.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import openai

from benchmarks import client, examples, statistics, throughput_arms, vllm_baselines
from benchmarks.engine_clock import EngineClock, Window
from benchmarks.form import CouldNotMeasure, Figure, Plain, summarised
from benchmarks.server_process import ServerProcess
from benchmarks.throughput_arms import Plan, Run
from benchmarks.vllm_baselines import Work
from engine.vllm.arguments import names_in

PACKED, FILE_ORDER, RUN_BATCH = "ours_packed", "ours_file_order", "run_batch"
ARMS = (RUN_BATCH, FILE_ORDER, PACKED)
PACKING = {PACKED: "prefix", FILE_ORDER: "file"}

FLAGS = ("--max-model-len", "4096", "--max-num-seqs", "32", "--max-num-batched-tokens", "2048")
CPU_FLAGS = (*FLAGS, "--dtype", "bfloat16", "--block-size", "32", "--enforce-eager")
KV_FLAG = "kv-cache-memory-bytes"
MIB = 1024 * 1024


def engine_flags(given: Sequence[str], *, device: str, kv_bytes: int) -> tuple[str, ...]:
    """What a person gave, or ours; with the size of the cache, unless they gave that too."""
    flags = tuple(given) or (CPU_FLAGS if device == "cpu" else FLAGS)
    return flags if KV_FLAG in names_in(list(flags)) else (*flags, f"--{KV_FLAG}", str(kv_bytes))


def chosen(names: str, known: Sequence[str], what: str) -> list[str]:
    """The ones named in a comma-separated list, in the order in which they are known."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if unknown := [name for name in wanted if name not in known]:
        raise CouldNotMeasure(f"no {what} {', '.join(unknown)}; there are {', '.join(known)}")
    return [name for name in known if name in wanted]


@dataclass(frozen=True, slots=True)
class Files:
    """What is run at once: one file, or one of each of several tenants. `flags` are the same in every arm."""

    model: str
    device: str
    flags: tuple[str, ...]
    files: Sequence[Sequence[bytes]]

    @property
    def lines(self) -> list[bytes]:
        return [line for one in self.files for line in one]

    @property
    def plan(self) -> Plan:
        lines = self.lines
        return Plan(
            lines=lines,
            count=len(lines),
            inflight_max=0,
            model=self.model,
            upstream=None,
            flags=self.flags,
            device=self.device,
            cores=tuple(sorted(os.sched_getaffinity(0))),
        )


def facts(files: Files) -> Mapping[str, Plain]:
    plan = files.plan
    return throughput_arms.engine_facts(
        plan, throughput_arms.engine_flags(plan), throughput_arms.engine_environment(plan)
    )


def run_arm(arm: str, files: Files) -> Run:
    with tempfile.TemporaryDirectory(prefix="nightbatch-bench-", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        return _run_batch(files, folder) if arm == RUN_BATCH else _ours(files, folder, packing=PACKING[arm])


def _run_batch(files: Files, folder: Path) -> Run:
    plan = files.plan
    path = examples.write_input(folder / "input.jsonl", plan.lines, plan.model, count=plan.count)
    work = Work(
        plan.model,
        throughput_arms.engine_flags(plan),
        path,
        plan.count,
        throughput_arms.engine_environment(plan),
    )
    return Run(vllm_baselines.run_batch(work, folder))


def _ours(files: Files, folder: Path, *, packing: str) -> Run:
    clock, plan = EngineClock(folder), files.plan
    keys = [f"tenant-{number}" for number in range(len(files.files))]
    server_process = ServerProcess(
        ["--model", plan.model, "--", *plan.flags],
        config=config(packing, keys),
        environment={
            **vllm_baselines.QUIET,
            **vllm_baselines.core_binding(plan.device, plan.cores),
            **clock.environment(),
        },
    )
    with server_process as server:
        wall_seconds = _through_api(server.url, files, keys, folder)
    return Run(clock.window(requests=plan.count), wall_seconds)


def config(packing: str, keys: Sequence[str]) -> str:
    """nightbatch.toml, with a tenant for each key when there are several."""
    tenants = [
        f'[[tenants]]\nname = "{key}"\nkey_sha256 = ["{hashlib.sha256(key.encode()).hexdigest()}"]\n' for key in keys
    ]
    return "\n".join([f'[scheduler]\npacking = "{packing}"\n', *(tenants if len(keys) > 1 else [])])


def _through_api(url: str, files: Files, keys: Sequence[str], folder: Path) -> float:
    """All batches are created at once; from there to the last one's end."""
    apis = [openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=600) for key in keys]
    model = client.first_model(apis[0])
    uploaded = []
    for number, (api, lines) in enumerate(zip(apis, files.files, strict=True)):
        path = examples.write_input(folder / f"input-{number}.jsonl", lines, model, count=len(lines))
        uploaded.append((api, client.upload(api, path), client.endpoint_of(lines[0])))
    began = time.perf_counter()
    batches = [(api, client.create(api, file_id, endpoint)) for api, file_id, endpoint in uploaded]
    for api, batch in batches:
        client.watch(api, batch, seconds_max=vllm_baselines.RUN_SECONDS_MAX)
    return time.perf_counter() - began


@dataclass(slots=True)
class Measured:
    """The runs of one arm, one a round."""

    runs: list[Run] = field(default_factory=list)

    @property
    def windows(self) -> list[Window]:
        return [run.window for run in self.runs]

    def makespans(self) -> list[float]:
        return [window.seconds for window in self.windows]

    def figures(self) -> dict[str, Figure]:
        windows = self.windows
        found = {
            "makespan_s": summarised(self.makespans(), "s"),
            "hit_rate": summarised([window.cached_tokens / window.prompt_tokens for window in windows], ""),
            "read_tokens": summarised(
                [float(window.prompt_tokens - window.cached_tokens) for window in windows], "tokens"
            ),
            "output_tokens": summarised([float(window.output_tokens) for window in windows], "tokens"),
        }
        walls = [run.wall_seconds for run in self.runs if run.wall_seconds is not None]
        if walls:
            found["create_to_completed_s"] = summarised(walls, "s")
        return found


def speedup(ours: Measured, theirs: Measured) -> Figure | None:
    """How many times longer the other arm took, round by round; None when it did not run as often."""
    if not ours.runs or len(ours.runs) != len(theirs.runs):
        return None
    return summarised(statistics.ratios(theirs.makespans(), ours.makespans()), "x")


def alternate(
    arms: Sequence[str],
    rounds: int,
    run_one: Callable[[str, int], Run],
    say: Callable[[str], None],
    *,
    what: str,
) -> dict[str, Measured]:
    """Every other round runs backwards. `run_one` gets the arm and the round, from 0."""
    measured = {arm: Measured() for arm in arms}
    for round_no in range(rounds):
        for arm in arms if round_no % 2 == 0 else reversed(arms):
            began = time.monotonic()
            found = run_one(arm, round_no)
            measured[arm].runs.append(found)
            window = found.window
            say(
                f"{what}, round {round_no + 1} of {rounds}, {arm}: {window.seconds:.1f} s in the engine, "
                f"{window.cached_tokens / window.prompt_tokens:.0%} of the prompts found in the cache, "
                f"{time.monotonic() - began:.0f} s with start and stop"
            )
    return measured
