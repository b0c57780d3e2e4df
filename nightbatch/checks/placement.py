"""Where the configured models would run and what they would get: the same plan that `serve` makes and prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from engine.embedded import EmbeddedError, prepared
from nightbatch.checks import Finding, fail, ok
from nightbatch.config import ConfigError, ModelConfig
from nightbatch.engine_names import EngineNames
from nightbatch.engines import embedded_of, plan_local
from nightbatch.lives import name_engines


def placement(models: Sequence[ModelConfig]) -> Iterator[Finding]:
    """Nothing is prepared for it: a model that first has to be is left to the finding that says so."""
    local = [model for model in models if model.engine == "vllm" and _is_there(model)]
    if not local:
        return
    try:
        lines = plan_local(local, name_engines(local, EngineNames())).lines
    except ConfigError as error:
        for problem in error.problems:
            yield fail("placement", problem, "memory_share, kv_cache_mib and device of each model decide it")
        return
    for line in lines:
        yield ok("placement", line)


def _is_there(model: ModelConfig) -> bool:
    found = embedded_of(model)
    try:
        return found is None or prepared(found) is not None
    except EmbeddedError:
        return False
