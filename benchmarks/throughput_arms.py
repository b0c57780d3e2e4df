"""The arms of `throughput`: how each of them sends the file, and what it states about itself."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import client, examples, machine, vllm_baselines
from benchmarks.anonymous import argument
from benchmarks.engine_clock import EngineClock, Window
from benchmarks.form import CouldNotMeasure, Options, Plain
from benchmarks.server_process import ServerProcess
from benchmarks.tap import Tap
from benchmarks.vllm_baselines import Work
from engine import embedded
from engine.protocol import ModelKind
from engine.vllm import VllmSpec, launch

CPU_FLAGS = (
    *("--dtype", "bfloat16", "--max-model-len", "2048", "--max-num-seqs", "64"),
    *(
        "--max-num-batched-tokens",
        "2048",
        "--block-size",
        "32",
        "--kv-cache-memory-bytes",
        "1073741824",
        "--enforce-eager",
    ),
)
"""On a CPU: a quick start, and blocks short enough for shared prefixes to be found (the default there is 128 tokens).
On a GPU nothing is set that the person did not set."""

BATCH_WALL = "upload_to_completed_s"
CLIENT_WALL = "first_send_to_last_answer_s"


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one arm. `wall_seconds` is what the client waited: for its batch, from upload to completed, or for the
    last of its answers. `run_batch` has no client."""

    window: Window
    wall_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class RunnableArm:
    """`wall` is the name of the figure that `Run.wall_seconds` becomes."""

    facts: Mapping[str, Plain]
    run: Callable[[Path], Run]
    wall: str = BATCH_WALL


@dataclass(frozen=True, slots=True)
class Plan:
    lines: Sequence[bytes]
    count: int
    inflight_max: int
    model: str
    upstream: str | None
    flags: tuple[str, ...]
    device: str
    cores: tuple[int, ...]

    @classmethod
    def of(cls, options: Options, *, lines: Sequence[bytes], count: int, inflight_max: int) -> Plan:
        device = machine.device()
        if options.upstream is not None:
            model = client.first_model(client.connect(options.upstream))
        else:
            model = model_source(options.model or embedded.CHAT.id)
        return cls(
            lines=lines,
            count=count,
            inflight_max=inflight_max,
            model=model,
            upstream=options.upstream,
            flags=options.engine_args or (CPU_FLAGS if device == "cpu" else ()),
            device=device,
            cores=tuple(sorted(os.sched_getaffinity(0))),
        )

    def input(self, folder: Path, model: str) -> Path:
        return examples.write_input(folder / "input.jsonl", self.lines, model, count=self.count)

    def work(self, folder: Path, flags: Sequence[str], environment: Mapping[str, str]) -> Work:
        return Work(self.model, flags, self.input(folder, self.model), self.count, environment)


def model_source(model: str) -> str:
    """What both vLLM and we can load: a hub id, a folder, or the folder of an embedded model."""
    if model not in embedded.EMBEDDED:
        return model
    try:
        return str(embedded.prepare(embedded.EMBEDDED[model]))
    except embedded.EmbeddedError as error:
        raise CouldNotMeasure(str(error)) from error


def engine_flags(plan: Plan) -> tuple[str, ...]:
    """The command line that our engine gives to vLLM for these flags: its own additions belong to "the same flags".

    What our server decides from the device's memory (a KV cache that no flag sets) is not in it: set it in the flags.
    """
    spec = VllmSpec(
        "bench", "bench", plan.model, engine_args=plan.flags, device="cpu" if plan.device == "cpu" else "cuda"
    )
    return tuple(launch.flags(spec, ModelKind.GENERATE))


def engine_environment(plan: Plan) -> dict[str, str]:
    """All cores, and the preloaded libraries that our engine gets: the ratio is about what stands above the engine."""
    if plan.device != "cpu":
        return {}
    preloads = ":".join(str(library) for library in launch.preloads())
    return {**vllm_baselines.core_binding(plan.device, plan.cores), **({"LD_PRELOAD": preloads} if preloads else {})}


def arms(plan: Plan) -> dict[str, RunnableArm]:
    """In the order of the table: ours first."""
    if plan.upstream is not None:
        facts: dict[str, Plain] = {"upstream": argument(plan.upstream), "clock": "tap"}
        return {
            "ours": RunnableArm(facts, lambda folder: _ours_upstream(plan, folder)),
            "parallel_client": RunnableArm(facts, lambda folder: _client_upstream(plan, folder), CLIENT_WALL),
        }
    flags, environment = engine_flags(plan), engine_environment(plan)
    facts = engine_facts(plan, flags, environment)
    return {
        "ours": RunnableArm(facts, lambda folder: _ours(plan, folder)),
        "run_batch": RunnableArm(
            facts, lambda folder: Run(vllm_baselines.run_batch(plan.work(folder, flags, environment), folder))
        ),
        "parallel_client": RunnableArm(
            {**facts, "inflight_max": plan.inflight_max},
            lambda folder: _client(plan, folder, flags, environment),
            CLIENT_WALL,
        ),
        "run_batch_defaults": RunnableArm(
            engine_facts(plan, (), {}), lambda folder: Run(vllm_baselines.run_batch(plan.work(folder, (), {}), folder))
        ),
    }


def engine_facts(plan: Plan, flags: Sequence[str], environment: Mapping[str, str]) -> dict[str, Plain]:
    facts: dict[str, Plain] = {
        "model": argument(plan.model),
        "engine_flags": " ".join(argument(flag) for flag in flags) or "vLLM's defaults",
        "clock": "vLLM stat logger",
    }
    if plan.device == "cpu":
        facts["cores_bound"] = environment.get("VLLM_CPU_OMP_THREADS_BIND", "vLLM's default, which leaves one free")
        preloaded = [Path(library).name for library in environment.get("LD_PRELOAD", "").split(":") if library]
        facts["preloaded"] = " ".join(preloaded) or "nothing"
    return facts


def _ours(plan: Plan, folder: Path) -> Run:
    clock = EngineClock(folder)
    with our_server(plan, clock.environment()) as server:
        wall_seconds = _through_api(plan, server, folder)
    return Run(clock.window(requests=plan.count), wall_seconds)


def our_server(plan: Plan, environment: Mapping[str, str]) -> ServerProcess:
    if plan.upstream is not None:
        return ServerProcess(["--upstream", plan.upstream])
    return ServerProcess(
        ["--model", plan.model, *(["--", *plan.flags] if plan.flags else [])],
        environment={
            **vllm_baselines.QUIET,
            **vllm_baselines.core_binding(plan.device, plan.cores),
            **environment,
        },
    )


def _through_api(plan: Plan, server: ServerProcess, folder: Path) -> float:
    """Upload to completed, and a look at the counts: an errored line would make the arm look fast."""
    api = client.connect(server.url)
    path = plan.input(folder, client.first_model(api))
    began = time.perf_counter()
    batch = client.create(api, client.upload(api, path), client.endpoint_of(plan.lines[0]))
    client.watch(api, batch, seconds_max=vllm_baselines.RUN_SECONDS_MAX)
    return time.perf_counter() - began


def _client(plan: Plan, folder: Path, flags: Sequence[str], environment: Mapping[str, str]) -> Run:
    sent = vllm_baselines.parallel_client(plan.work(folder, flags, environment), folder, inflight_max=plan.inflight_max)
    return Run(sent.window, sent.seconds)


def _ours_upstream(plan: Plan, folder: Path) -> Run:
    assert plan.upstream is not None
    with Tap(plan.upstream, folder) as tap:
        with ServerProcess(["--upstream", tap.url]) as server:
            wall_seconds = _through_api(plan, server, folder)
        return Run(tap.window(requests=plan.count), wall_seconds)


def _client_upstream(plan: Plan, folder: Path) -> Run:
    assert plan.upstream is not None
    with Tap(plan.upstream, folder) as tap:
        seconds = vllm_baselines.send_all(tap.url, plan.work(folder, (), {}), folder, inflight_max=plan.inflight_max)
        return Run(tap.window(requests=plan.count), seconds)
