"""Turns a `validating` batch into shards, or into a `failed` batch with all of its errors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.registry import Registry
from scheduler import metrics
from scheduler.actors.inputs import BatchInput, Inputs
from scheduler.policy.order import cut_shards, execution_order
from scheduler.policy.validation import Found, find_errors
from scheduler.settings import SchedulerSettings
from store import Store
from store.markers import reach
from store.order import write_order
from store.records import BatchRecord, NewShard

log = logging.getLogger(__name__)


class Intake:
    """Repeating it is harmless: the order is written again and the same shards are cut, until one admission wins."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        settings: SchedulerSettings,
        inputs: Inputs,
        *,
        now: Callable[[], float],
    ) -> None:
        self._store = store
        self._registry = registry
        self._settings = settings
        self._inputs = inputs
        self._now = now

    async def take_in(self, batch: BatchRecord) -> None:
        source = await self._inputs.open(batch)
        found = await asyncio.to_thread(self._validate, batch, source)
        if found.total:
            await self._refuse(batch, found)
            return
        shards = await asyncio.to_thread(self._order, batch, source)
        reach("intake.ordered")
        total = source.index.count
        if await self._store.work.admit(batch.id, shards=shards, total=total, at=int(self._now())):
            reach("intake.admitted")
            log.info("batch admitted: %d lines in %d shards", total, len(shards), extra=_extra(batch))

    async def _refuse(self, batch: BatchRecord, found: Found) -> None:
        failed = await self._store.batches.fail(
            batch.id, errors=found.shown, errors_total=found.total, at=int(self._now())
        )
        if failed is not None:
            self._inputs.forget(batch.id)
            metrics.BATCHES_ENDED.labels(failed.status.value).inc()
            log.info("batch refused: %d errors in its input", found.total, extra=_extra(batch))

    def _validate(self, batch: BatchRecord, source: BatchInput) -> Found:
        records = source.index.records
        return find_errors(
            endpoint=batch.endpoint,
            urls=source.index.urls,
            models=source.index.models,
            url_column=records["url"],
            model_column=records["model"],
            error_column=records["error"],
            line_column=records["line"],
            form_errors=source.index.iter_errors(source.blob_path),
            pinned=batch.models,
            served={model.id: model for model in self._registry.models()},
            shown_max=self._settings.line_errors_shown_max,
        )

    def _order(self, batch: BatchRecord, source: BatchInput) -> list[NewShard]:
        """Write the execution order and cut it. Two names of one pinned model are one model here."""
        index = source.index
        pins = sorted({(batch.models[name].id, batch.models[name].revision) for name in index.models})
        numbers = [pins.index((batch.models[name].id, batch.models[name].revision)) for name in index.models]
        model = _renumbered(index.records["model"], numbers)
        order = execution_order(
            model=model, ladder=index.records["ladder"], output_tokens=index.records["output_tokens"]
        )
        write_order(source.order_path, order)
        cut = cut_shards(
            model=model[order],
            line_bytes=index.records["length"][order],
            lines_max=self._settings.shard_lines_max,
            bytes_max=self._settings.shard_bytes_max,
        )
        return [NewShard(number, start, stop, *pins[model_no]) for number, (start, stop, model_no) in enumerate(cut)]


def _renumbered(column: NDArray[Any], numbers: list[int]) -> NDArray[Any]:
    table = np.asarray(numbers, dtype=np.uint16)
    renumbered: NDArray[Any] = table[column]
    return renumbered


def _extra(batch: BatchRecord) -> dict[str, object]:
    return {"tenant": batch.tenant, "batch": batch.id}
