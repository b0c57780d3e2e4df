"""An engine's Prometheus text: vLLM's own series, told apart by the engine's name."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import REGISTRY, generate_latest
from prometheus_client.core import Metric
from prometheus_client.samples import Sample

PREFIX = "vllm:"
ENGINE_LABEL = "nightbatch_engine"
"""vLLM's own `engine` label is an index inside one AsyncLLM: two replicas of a model would be one series."""


class _Named:
    """A view of the process's registry: only vLLM's families, each sample with the engine's name."""

    def __init__(self, engine: str) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        for family in REGISTRY.collect():
            if not family.name.startswith(PREFIX):
                continue
            named = Metric(family.name, family.documentation, family.type, family.unit)
            named.samples = [
                Sample(s.name, {**s.labels, ENGINE_LABEL: self._engine}, s.value, s.timestamp, s.exemplar)
                for s in family.samples
            ]
            yield named


def engine_metrics(engine: str) -> str:
    return generate_latest(_Named(engine)).decode()
