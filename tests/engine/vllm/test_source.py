"""What is known of a model before it is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.protocol import EMBEDDINGS, RERANK, SCORE, ModelKind
from engine.vllm.source import (
    SourceError,
    context_tokens,
    endpoints_of,
    folder_digest,
    inspect,
    kind_of,
    kv_token_bytes,
)

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "max_position_embeddings": 8192,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "hidden_size": 576,
}


def make_model(folder: Path, config: dict[str, Any] | None = None, weights: bytes = b"w" * 1000) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(LLAMA if config is None else config))
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def test_a_folder_is_known_by_size_context_and_digest(tmp_path: Path) -> None:
    found = inspect(str(make_model(tmp_path / "m")))
    assert (found.local, found.weights_bytes, context_tokens(found.config)) == (True, 1000, 8192)
    assert found.revision == folder_digest(tmp_path / "m")
    assert kv_token_bytes(found.config) == 23_040


@pytest.mark.parametrize("changed", ["weights", "tail", "config", "tokenizer"])
def test_another_file_is_another_revision(tmp_path: Path, changed: str) -> None:
    large = b"a" * 3_000_000
    folder = make_model(tmp_path / "m", weights=large)
    before = folder_digest(folder)
    assert folder_digest(folder) == before
    if changed == "weights":
        make_model(folder, weights=large + b"a")
    elif changed == "tail":
        make_model(folder, weights=large[:-1] + b"b")
    elif changed == "config":
        make_model(folder, {**LLAMA, "rope_theta": 1}, large)
    else:
        (folder / "tokenizer.json").write_text("{}")
    assert folder_digest(folder) != before


def test_a_folder_without_weights_or_config_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no weights"):
        inspect(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"w")
    with pytest.raises(SourceError, match=r"no config\.json"):
        inspect(str(tmp_path))
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(SourceError, match="not a JSON object"):
        inspect(str(tmp_path))
    with pytest.raises(SourceError, match="no such folder"):
        inspect(str(tmp_path / "none"))


def test_a_cached_hub_id_is_known_by_its_commit(tmp_path: Path) -> None:
    root = tmp_path / "models--org--m"
    make_model(root / "snapshots" / "abc123")
    assert inspect("org/m", cache=tmp_path).revision is None
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("abc123")
    found = inspect("org/m", cache=tmp_path)
    assert (found.revision, found.local, found.weights_bytes) == ("abc123", False, 1000)
    assert inspect("org/m", revision="abc123", cache=tmp_path).revision == "abc123"


def test_a_hub_id_that_was_never_downloaded_is_not_known_yet(tmp_path: Path) -> None:
    found = inspect("org/other", cache=tmp_path)
    assert (found.folder, found.revision, found.weights_bytes) == (None, None, None)


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [
        ("LlamaForCausalLM", ModelKind.GENERATE),
        ("Qwen2VLForConditionalGeneration", ModelKind.GENERATE),
        ("BertModel", ModelKind.POOLING),
        ("Qwen3ForSequenceClassification", ModelKind.POOLING),
        ("GritLMEmbeddingModel", ModelKind.POOLING),
        ("NewModel", ModelKind.POOLING),
    ],
)
def test_the_kind_follows_from_the_architecture(architecture: str, kind: ModelKind) -> None:
    assert kind_of({"architectures": [architecture]}) is kind


def test_a_classifier_scores_and_an_encoder_embeds_too() -> None:
    assert endpoints_of(ModelKind.POOLING, {"architectures": ["BertForSequenceClassification"]}) == {SCORE, RERANK}
    assert EMBEDDINGS in endpoints_of(ModelKind.POOLING, {"architectures": ["BertModel"]})
    assert kind_of(None) is ModelKind.GENERATE


def test_what_is_no_plain_transformer_promises_no_kv_size() -> None:
    assert kv_token_bytes({**LLAMA, "kv_lora_rank": 512}) is None
    assert kv_token_bytes({"architectures": ["MambaForCausalLM"]}) is None
    assert kv_token_bytes({"text_config": LLAMA}) == 23_040
