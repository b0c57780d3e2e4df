"""What real vLLM says when it cannot start: the root cause in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine import embedded
from engine.protocol import EngineStartError, EngineState
from engine.vllm import VllmEngine, VllmSpec

pytestmark = [pytest.mark.real_engine, pytest.mark.timeout(600)]

Copy = Callable[..., str]


@pytest.fixture
def broken_copy(tmp_path: Path) -> Copy:
    """The default embedding model with something changed in its configuration, or without a part of its weights."""

    def copy(*, keep_bytes: int | None = None, **config: Any) -> str:
        folder = tmp_path / "model"
        shutil.copytree(embedded.prepare(embedded.EMBEDDING), folder)
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
        if keep_bytes is not None:
            weights = folder / "model.safetensors"
            weights.write_bytes(weights.read_bytes()[:keep_bytes])
        return str(folder)

    return copy


async def cause_of(tmp_path: Path, source: str, **engine_args: Any) -> str:
    spec = VllmSpec("broken", "m", source, engine_args=engine_args, kv_cache_bytes=64 * 1024 * 1024)
    engine = VllmEngine(spec, folder=tmp_path / "engines")
    with pytest.raises(EngineStartError) as raised:
        await engine.start()
    assert engine.status().state is EngineState.DOWN
    cause = str(raised.value)
    assert "\n" not in cause
    return cause


async def test_an_unknown_flag_is_named_with_its_neighbour(tmp_path: Path, broken_copy: Copy) -> None:
    cause = await cause_of(tmp_path, broken_copy(), max_modle_len=100)
    assert "no engine argument `max_modle_len`; did you mean `max_model_len`" in cause


async def test_a_value_that_vllm_does_not_take_is_named_with_its_flag(tmp_path: Path, broken_copy: Copy) -> None:
    cause = await cause_of(tmp_path, broken_copy(), max_model_len="plenty")
    assert "--max-model-len" in cause
    assert "plenty" in cause


async def test_an_unknown_architecture_is_named(tmp_path: Path, broken_copy: Copy) -> None:
    cause = await cause_of(tmp_path, broken_copy(architectures=["NoSuchModel"]))
    assert "NoSuchModel" in cause


async def test_torn_weights_are_the_cause_and_not_the_worker_that_died(tmp_path: Path, broken_copy: Copy) -> None:
    cause = await cause_of(tmp_path, broken_copy(keep_bytes=1_000_000))
    assert "SafetensorError" in cause
