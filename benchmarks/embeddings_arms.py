"""The arms of `embeddings`: the texts through our API in several shapes, and one `LLM.embed` of all of them."""

from __future__ import annotations

import base64
import json
import os
import struct
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import openai

from benchmarks import client, machine, process_cpu, vllm_baselines
from benchmarks.anonymous import argument
from benchmarks.embedding_texts import write_lines
from benchmarks.engine_clock import EngineClock
from benchmarks.form import CouldNotMeasure, Options, Plain
from benchmarks.server_process import ChildProcess, ServerProcess
from engine import embedded
from engine.protocol import ModelKind
from engine.vllm import VllmSpec, launch

CPU_FLAGS = ("--max-num-seqs", "256", "--max-num-batched-tokens", "4096", "--enforce-eager")
"""On a CPU: what `LLM` takes by itself there, said to both sides. On a GPU nothing is set that nobody set."""

CPU_MEMORY_FLAGS = ("--gpu-memory-utilization", "0.3")
"""By itself `LLM` wants 92 % of the machine's memory to be free, and does not start without; our server plans it."""

RUN_SECONDS_MAX = 3_600.0
WARM_UP = 256
SHOWN = 16
"""Texts whose vectors are compared between the arms."""

LIKENESS_MIN = 0.999
ARRAY_INPUTS = 16


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one arm. `seconds` is from the first request at the engine to its last result, `waited_seconds` from
    the upload to the downloaded results; `cpu_seconds` by part of the server."""

    seconds: float
    prompt_tokens: int
    vectors: Sequence[Sequence[float]]
    waited_seconds: float | None = None
    cpu_seconds: Mapping[str, float] = field(default_factory=dict)
    result_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class RunnableArm:
    facts: Mapping[str, Plain]
    run: Callable[[Path], Run]


@dataclass(frozen=True, slots=True)
class Plan:
    texts: Sequence[str]
    model: str
    flags: tuple[str, ...]
    device: str
    cores: tuple[int, ...]

    @classmethod
    def of(cls, options: Options, texts: Sequence[str]) -> Plan:
        if options.upstream is not None:
            raise CouldNotMeasure("embeddings compares two ways to one engine: it takes --model, and no --upstream")
        device = machine.device()
        return cls(
            texts=texts,
            model=options.model or embedded.EMBEDDING.id,
            flags=options.engine_args or (CPU_FLAGS if device == "cpu" else ()),
            device=device,
            cores=tuple(sorted(os.sched_getaffinity(0))),
        )

    def shown(self) -> list[int]:
        """Numbers of the texts whose vectors are compared, spread over all."""
        return [len(self.texts) * number // SHOWN for number in range(SHOWN)]

    def cores_bound(self) -> dict[str, str]:
        return vllm_baselines.core_binding(self.device, self.cores)


@dataclass(frozen=True, slots=True)
class Shape:
    """How the texts stand in the batch file. `fields` are more of each body."""

    inputs: int = 1
    fields: Mapping[str, str] = field(default_factory=dict)

    def facts(self) -> dict[str, Plain]:
        return {"inputs_per_line": self.inputs, **self.fields}


SHAPES = {
    "ours": Shape(),
    "ours_arrays": Shape(ARRAY_INPUTS),
    "ours_base64": Shape(fields={"encoding_format": "base64"}),
    # A field at its own default, which only vLLM's serving class knows: so the text goes through that class.
    "ours_serving_class": Shape(fields={"embed_dtype": "float32"}),
}
LLM_EMBED = "llm_embed"


def arms(plan: Plan) -> dict[str, RunnableArm]:
    common: dict[str, Plain] = {
        "model": argument(plan.model),
        "engine_flags": " ".join(argument(flag) for flag in _engine_flags(plan)) or "vLLM's defaults",
        **({"cores_bound": ",".join(map(str, plan.cores))} if plan.device == "cpu" else {}),
    }
    found = {
        name: RunnableArm({**common, **shape.facts()}, partial(_ours, plan, shape)) for name, shape in SHAPES.items()
    }
    return {**found, LLM_EMBED: RunnableArm(common, partial(_llm_embed, plan))}


def _engine_flags(plan: Plan) -> list[str]:
    """The command line that our engine gives to vLLM for these flags."""
    device = "cpu" if plan.device == "cpu" else "cuda"
    spec = VllmSpec("bench", "bench", plan.model, kind=ModelKind.POOLING, engine_args=plan.flags, device=device)
    return launch.flags(spec, ModelKind.POOLING)


def _ours(plan: Plan, shape: Shape, folder: Path) -> Run:
    clock = EngineClock(folder)
    environment = {**vllm_baselines.QUIET, **plan.cores_bound(), **clock.environment()}
    arguments = ["--model", plan.model, *(["--", *plan.flags] if plan.flags else [])]
    with ServerProcess(arguments, environment=environment) as server:
        api = client.connect(server.url)
        model = client.first_model(api)
        api.embeddings.create(model=model, input=list(plan.texts[:WARM_UP]))
        path = folder / "input.jsonl"
        write_lines(path, plan.texts, model=model, inputs=shape.inputs, fields=shape.fields)
        before, began_at, began = process_cpu.cpu_seconds(server.pid), time.time(), time.perf_counter()
        output = _through_api(api, path)
        waited = time.perf_counter() - began
        used = process_cpu.used(before, process_cpu.cpu_seconds(server.pid))
    window = clock.window(requests=len(plan.texts), since=began_at)
    vectors = read_vectors(output.splitlines(), plan.shown(), shape.inputs)
    return Run(window.seconds, window.prompt_tokens, vectors, waited, used, len(output))


def _through_api(api: openai.OpenAI, path: Path) -> bytes:
    batch = client.create(api, client.upload(api, path), "/v1/embeddings")
    return client.download(api, client.watch(api, batch, seconds_max=RUN_SECONDS_MAX))


def read_vectors(lines: Sequence[bytes], shown: Sequence[int], inputs: int) -> list[list[float]]:
    """Of the texts with these numbers, by the results of their lines, which keep the order of the file."""
    found = []
    for number in shown:
        line_no, place = divmod(number, inputs)
        item = json.loads(lines[line_no])["response"]["body"]["data"][place]
        found.append(vector_of(item["embedding"]))
    return found


def vector_of(embedding: Any) -> list[float]:
    if isinstance(embedding, str):
        raw = base64.b64decode(embedding)
        return list(struct.unpack(f"<{len(raw) // 4}f", raw))
    return [float(number) for number in embedding]


def _llm_embed(plan: Plan, folder: Path) -> Run:
    texts, report = folder / "texts.json", folder / "llm-embed.json"
    texts.write_text(json.dumps(list(plan.texts)), encoding="utf-8")
    preloads = ":".join(str(library) for library in launch.preloads()) if plan.device == "cpu" else ""
    memory = () if plan.device != "cpu" or CPU_MEMORY_FLAGS[0] in plan.flags else CPU_MEMORY_FLAGS
    child = ChildProcess(
        [
            *(sys.executable, "-m", "benchmarks.llm_embed", "--texts", str(texts), "--output", str(report)),
            *("--warm-up", str(WARM_UP), "--show", *map(str, plan.shown())),
            *("--", "--model", _source(plan.model), *_engine_flags(plan), *memory),
        ],
        folder=folder,
        name="llm-embed",
        environment={**vllm_baselines.QUIET, **plan.cores_bound(), **({"LD_PRELOAD": preloads} if preloads else {})},
    )
    child.start()
    try:
        child.wait(RUN_SECONDS_MAX)
    finally:
        child.stop()
    found = json.loads(report.read_text())
    if found["texts"] != len(plan.texts):
        raise CouldNotMeasure(f"LLM.embed gave {found['texts']} vectors for {len(plan.texts)} texts")
    return Run(float(found["seconds"]), int(found["prompt_tokens"]), found["vectors"])


def _source(model: str) -> str:
    """What vLLM can load: a hub id, a folder, or the folder of an embedded model."""
    found = embedded.find(model)
    if found is None:
        return model
    try:
        return str(embedded.prepare(found))
    except embedded.EmbeddedError as error:
        raise CouldNotMeasure(str(error)) from error


def check_alike(name: str, mine: Run, theirs: Run) -> None:
    """Faster by other vectors would be no measurement."""
    if mine.prompt_tokens != theirs.prompt_tokens:
        raise CouldNotMeasure(f"{name} read {mine.prompt_tokens} tokens, LLM.embed {theirs.prompt_tokens}")
    for number, (one, other) in enumerate(zip(mine.vectors, theirs.vectors, strict=True)):
        likeness = cosine(one, other)
        if likeness < LIKENESS_MIN:
            raise CouldNotMeasure(f"{name}: text {number} of those compared has a likeness of only {likeness:.4f}")


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    product = sum(a * b for a, b in zip(one, other, strict=True))
    norms = sum(a * a for a in one) * sum(b * b for b in other)
    return float(product / norms**0.5) if norms else 0.0
