"""What can be known of a model before anything is loaded: kind, revision, size, context."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine import embedded
from engine.protocol import EMBEDDINGS, GENERATE_ENDPOINTS, RERANK, SCORE, ModelKind

WEIGHT_PATTERNS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf")
EDGE_BYTES = 1024 * 1024
"""A weight file is told from another by its name, its size, its first and its last MiB."""

REVISION_DIGITS = 16
KV_VALUE_BYTES = 2
_SCORERS = ("ForSequenceClassification", "ForTokenClassification", "RewardModel")
_EMBEDDERS = (
    "BertModel",
    "RobertaModel",
    "MPNetModel",
    "ModernBertModel",
    "NomicBertModel",
    "GteModel",
    "XLMRobertaModel",
)


class SourceError(Exception):
    """The source cannot be a model; the message says what is missing and where it was looked for."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """`folder` is None for a hub id that is not in the local cache: then nothing else is known before the download."""

    id: str
    folder: Path | None
    local: bool
    revision: str | None
    config: dict[str, Any] | None
    weights_bytes: int | None
    created_at: int


def inspect(source: str, *, revision: str | None = None, cache: Path | None = None) -> ModelSource:
    """`source` is a folder, an embedded model, or a hub id of which a snapshot may be in the cache."""
    folder = Path(source).expanduser()
    if (default := embedded.find(source)) is not None:
        return _of_embedded(default)
    if folder.is_dir():
        return _of_folder(source, folder, local=True, revision=None)
    if source.startswith(("/", "./", "../", "~")):
        raise SourceError(f"{source}: no such folder")
    snapshot = _snapshot(source, revision, cache or hub_cache())
    if snapshot is None:
        return ModelSource(source, None, False, None, None, None, 0)
    return _of_folder(source, snapshot, local=False, revision=snapshot.name)


def _of_embedded(model: embedded.EmbeddedModel) -> ModelSource:
    """Everything but the folder is known before the conversion."""
    try:
        folder, revision = embedded.prepared(model), model.revision
    except embedded.EmbeddedError as error:
        raise SourceError(str(error)) from None
    if folder is not None:
        return _of_folder(model.id, folder, local=True, revision=revision)
    config = {"architectures": [model.architecture]}
    return ModelSource(model.id, None, True, revision, config, model.weights_bytes, 0)


def _of_folder(source: str, folder: Path, *, local: bool, revision: str | None) -> ModelSource:
    weights = list(weight_files(folder))
    if not weights:
        raise SourceError(f"{folder}: no weights (none of {', '.join(WEIGHT_PATTERNS)})")
    config = read_config(folder)
    created_at = int(max(path.stat().st_mtime for path in weights))
    size = sum(path.stat().st_size for path in weights)
    return ModelSource(source, folder, local, revision or folder_digest(folder), config, size, created_at)


def read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SourceError(
            f"{folder}: no config.json; a model folder has the layout of a Hugging Face snapshot"
        ) from None
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: {error}") from None
    if not isinstance(config, dict):
        raise SourceError(f"{path}: not a JSON object")
    return config


def weight_files(folder: Path) -> Iterator[Path]:
    """The files of the first format that is there: a folder often holds the same weights twice."""
    for pattern in WEIGHT_PATTERNS:
        found = sorted(path for path in folder.glob(pattern) if path.is_file())
        if found:
            yield from found
            return


def folder_digest(folder: Path) -> str:
    """A fingerprint of weights, configuration and tokenizer, without reading all of a large model."""
    digest = hashlib.blake2b(digest_size=REVISION_DIGITS // 2)
    for path in [*weight_files(folder), *sorted(folder.glob("*.json")), *sorted(folder.glob("*.jinja"))]:
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            digest.update(file.read(EDGE_BYTES))
            if size > EDGE_BYTES:
                file.seek(max(EDGE_BYTES, size - EDGE_BYTES))
                digest.update(file.read(EDGE_BYTES))
    return digest.hexdigest()


def kind_of(config: dict[str, Any] | None) -> ModelKind:
    """From the architecture's name; what is not known to pool, generates."""
    architectures = (config or {}).get("architectures") or []
    for name in architectures:
        if name.endswith(_SCORERS) or name in _EMBEDDERS or name.endswith(("EncoderModel", "EmbeddingModel")):
            return ModelKind.POOLING
    if architectures and all(name.endswith("Model") and "ForCausalLM" not in name for name in architectures):
        return ModelKind.POOLING
    return ModelKind.GENERATE


def endpoints_of(kind: ModelKind, config: dict[str, Any] | None) -> frozenset[str]:
    """A guess that holds until the engine itself has said what it serves."""
    if kind is ModelKind.GENERATE:
        return GENERATE_ENDPOINTS
    architectures = (config or {}).get("architectures") or []
    scores_only = any(name.endswith(_SCORERS) for name in architectures)
    return frozenset({SCORE, RERANK}) if scores_only else frozenset({EMBEDDINGS, SCORE, RERANK})


def context_tokens(config: dict[str, Any] | None) -> int | None:
    """The longest context that the configuration names."""
    text = (config or {}).get("text_config") or config or {}
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "model_max_length", "seq_length"):
        value = text.get(name)
        if isinstance(value, int) and value > 0:
            return value
    return None


def dimensions(config: dict[str, Any] | None, endpoints: Collection[str]) -> int | None:
    """The length of the embeddings of a model that makes them; a layer behind the model may still change it."""
    width = (config or {}).get("hidden_size")
    return width if EMBEDDINGS in endpoints and isinstance(width, int) else None


def kv_token_bytes(config: dict[str, Any] | None) -> int | None:
    """KV cache per token in 16 bits; None for what is no plain transformer (then nothing is promised or refused)."""
    text = (config or {}).get("text_config") or config or {}
    if any(text.get(name) for name in ("kv_lora_rank", "layer_types", "sliding_window", "mamba_d_state", "ssm_cfg")):
        return None
    heads = text.get("num_attention_heads")
    layers, width = text.get("num_hidden_layers"), text.get("hidden_size")
    if not (isinstance(heads, int) and isinstance(layers, int) and isinstance(width, int) and heads):
        return None
    kv_heads = text.get("num_key_value_heads") or heads
    return int(2 * layers * kv_heads * (text.get("head_dim") or width // heads) * KV_VALUE_BYTES)


def hub_cache() -> Path:
    """Where Hugging Face keeps its snapshots, by its own variables."""
    if explicit := os.environ.get("HF_HUB_CACHE"):
        return Path(explicit)
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    return Path(home) / "hub"


def _snapshot(model: str, revision: str | None, cache: Path) -> Path | None:
    """The cached snapshot of a hub id: of `revision` (branch, tag or commit), else of its main branch."""
    root = cache / ("models--" + model.replace("/", "--"))
    reference = root / "refs" / (revision or "main")
    try:
        commit = reference.read_text(encoding="utf-8").strip()
    except OSError:
        commit = revision or ""
    snapshot = root / "snapshots" / commit
    return snapshot if commit and (snapshot / "config.json").is_file() and any(weight_files(snapshot)) else None
