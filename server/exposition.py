"""`/metrics`: this process's series and every engine's, each family once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Sequence

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from engine.protocol import Engine
from server.context import ApiDep

ENGINE_LABEL = "nightbatch_engine"
router = APIRouter(tags=["Operations"])
log = logging.getLogger("nightbatch.metrics")


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def read_metrics(api: ApiDep) -> Response:
    """Prometheus text: `nightbatch_*`, and what each engine says of itself under the label `nightbatch_engine`."""
    seconds_max = api.settings.engine_metrics_seconds_max
    engines = api.registry.engines()
    texts = await asyncio.gather(*(_engine_text(engine, seconds_max) for engine in engines))
    named = [(engine.name, text) for engine, text in zip(engines, texts, strict=True)]
    return Response(await asyncio.to_thread(merged, REGISTRY, named), media_type=CONTENT_TYPE_LATEST)


async def _engine_text(engine: Engine, seconds_max: float) -> str:
    """An engine that cannot tell must not take the others' series with it."""
    try:
        async with asyncio.timeout(seconds_max):  # `wait_for` can lose a cancellation on Python 3.11
            return await engine.metrics()
    except Exception as error:  # noqa: BLE001 (whatever an engine does, the page is served)
        log.warning("no metrics from engine: %s", error or type(error).__name__, extra={"engine": engine.name})
        return ""


def merged(own: CollectorRegistry, engines: Sequence[tuple[str, str]]) -> bytes:
    """One exposition of `own` and of each (engine name, text)."""
    families = {family.name: family for family in own.collect()}
    for name, text in engines:
        try:
            parsed = list(text_string_to_metric_families(text))
        except ValueError as error:
            log.warning("an engine's metrics cannot be parsed: %s", error, extra={"engine": name})
            continue
        for family in parsed:
            _add(families, family, name)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(families.values()))
    return generate_latest(registry)


def _add(families: dict[str, Metric], family: Metric, engine: str) -> None:
    """Append the samples of `family`; where two disagree about the type, the first one's name stays unambiguous."""
    target = families.get(family.name)
    if target is None:
        target = Metric(family.name, family.documentation, family.type, family.unit)
        families[family.name] = target
    elif target.type != family.type:
        log.warning(
            "metric %s is a %s here and a %s there: left out",
            family.name,
            target.type,
            family.type,
            extra={"engine": engine},
        )
        return
    target.samples.extend(_labelled(sample, engine) for sample in family.samples)


def _labelled(sample: Sample, engine: str) -> Sample:
    labels = dict(sample.labels)
    if ENGINE_LABEL in labels:  # the engine is a Nightbatch itself: Prometheus's own word for the inner label
        labels[f"exported_{ENGINE_LABEL}"] = labels.pop(ENGINE_LABEL)
    labels[ENGINE_LABEL] = engine
    return sample._replace(labels=labels)


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)
