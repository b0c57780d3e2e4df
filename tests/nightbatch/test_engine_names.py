"""Every engine has a name of its own, whatever its model is called."""

from __future__ import annotations

import time
from pathlib import Path

from nightbatch.config import Config, ModelConfig
from nightbatch.engine_names import EngineNames
from nightbatch.engines import build_fleet


def test_models_whose_names_look_alike_get_engines_of_different_names() -> None:
    names = EngineNames()
    assert [*names.of_model("a/b"), *names.of_model("a-b"), *names.of_model("A b!")] == ["a-b", "a-b-2", "A-b"]
    assert names.of_model("a", replicas=2) == ["a-1", "a-2"]
    assert names.of_model("a-1") == ["a-1-2"]


def test_a_name_of_no_letters_is_still_a_name() -> None:
    names = EngineNames()
    assert [*names.of_model("//"), *names.of_model("模型")] == ["engine", "engine-2"]


async def test_one_upstream_may_serve_two_models(tmp_path: Path) -> None:
    upstream = ("http://gpu1:8000/v1",)
    models = tuple(ModelConfig(id=name, engine="remote", upstreams=upstream) for name in ("base", "tuned"))
    fleet = await build_fleet(Config(models=models), folder=tmp_path, environment={}, now=time.time)
    assert [engine.name for engine in fleet.engines] == ["gpu1-8000-v1", "gpu1-8000-v1-2"]
