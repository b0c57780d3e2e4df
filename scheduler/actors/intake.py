"""Turns a `validating` batch into shards, or into a `failed` batch: with all of its errors, or with the one reason why
its deadline cannot be kept."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.registry import Registry
from scheduler import metrics
from scheduler.actors.admission import Admission
from scheduler.actors.disk_room import DiskRoom
from scheduler.actors.inputs import BatchInput, Inputs
from scheduler.actors.invalid_lines import write_error_file, write_results
from scheduler.actors.measures import Measures
from scheduler.actors.predictions import order_lengths
from scheduler.facts.lengths import Known
from scheduler.facts.result_files import result_file
from scheduler.policy.admission import Remark, as_warnings
from scheduler.policy.disk_need import REFUSED_CODE
from scheduler.policy.limits import file_problem
from scheduler.policy.order import Packing, cut_shards, execution_order, file_order, shard_lines
from scheduler.policy.validation import Problems, find_problems, one_problem
from scheduler.settings import SchedulerSettings
from store import Store
from store.markers import reach
from store.order import write_order
from store.records import BatchRecord, LineError, NewShard, OnInvalidLine

log = logging.getLogger(__name__)


class Intake:
    """Repeating it is harmless: the order is written again and the same shards are cut, until one admission wins."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        settings: SchedulerSettings,
        inputs: Inputs,
        measures: Measures,
        admission: Admission,
        disk_room: DiskRoom,
        *,
        now: Callable[[], float],
        on_ended: Callable[[], None] = lambda: None,
        known: Callable[[], Mapping[int, Known]] = dict,
    ) -> None:
        """`on_ended` is called when a batch has failed here. `known` tells how long answers are, by template."""
        self._store = store
        self._registry = registry
        self._settings = settings
        self._inputs = inputs
        self._measures = measures
        self._admission = admission
        self._disk_room = disk_room
        self._now = now
        self._on_ended = on_ended
        self._known = known

    async def take_in(self, batch: BatchRecord) -> None:
        source = await self._inputs.open(batch)
        pace = self._store.intake_pace
        await pace.taken(source.index.records.nbytes)  # sorting cannot be cut into pieces: it waits for its turn
        problems = await asyncio.to_thread(self._problems, batch, source)
        fails = batch.on_invalid_line is OnInvalidLine.FAIL or problems.whole_file
        if problems.total and fails:
            await self._refuse(batch, source, problems)
            return
        lines = max(0, source.index.count - problems.total)
        remark = await self._judge(batch, source, lines)
        if remark is not None and self._admission.refuses(remark):
            await self._turn_away(batch, remark, "completion_window" if batch.deadline_at is None else "deadline_at")
            return
        need = await self._disk_room.judge(batch, source, lines=lines)
        if need is not None and need.code == REFUSED_CODE:
            await self._turn_away(batch, need, "input_file_id")
            return
        shards, invalid_lines = await pace.run(self._order, batch, source, problems, self._known())
        reach("intake.ordered")
        total = source.index.count
        admitted = await self._store.work.admit(
            batch.id,
            shards=shards,
            total=total,
            invalid_lines=invalid_lines,
            at=int(self._now()),
            warnings=as_warnings(remark, need),
        )
        if admitted:
            reach("intake.admitted")
            log.info(
                "batch admitted: %d lines in %d shards, %d invalid",
                total,
                len(shards),
                invalid_lines,
                extra=_extra(batch),
            )

    async def _judge(self, batch: BatchRecord, source: BatchInput, lines: int) -> Remark | None:
        tokens = await asyncio.to_thread(self._measures.size_of, source)
        remark = self._admission.judge(batch, lines=lines, tokens_per_line=tokens, now=self._now())
        if remark is not None:
            log.warning("%s: %s", remark.code, remark.message, extra=_extra(batch))
        return remark

    async def _turn_away(self, batch: BatchRecord, remark: Remark, param: str) -> None:
        error = LineError(remark.code, remark.message, param)
        failed = await self._store.batches.fail(batch.id, errors=(error,), errors_total=1, at=int(self._now()))
        if failed is not None:
            self._inputs.forget(batch.id)
            metrics.BATCHES_ENDED.labels(failed.status.value).inc()
            self._on_ended()

    async def _refuse(self, batch: BatchRecord, source: BatchInput, problems: Problems) -> None:
        """The first errors stand on the batch, all of them in its error file if they are of lines."""
        shown = tuple(islice(problems.errors(), self._settings.line_errors_shown_max))
        blob, error_file, now = None, None, int(self._now())
        if not problems.whole_file:
            blob = await self._store.intake_pace.run(
                write_error_file, batch.id, source, problems, self._store.blobs, self._store.intake_pace
            )
            error_file = result_file(
                batch,
                blob=blob.key,
                size=blob.bytes,
                kind="error",
                now=now,
                retention_seconds=self._settings.output_retention_seconds,
            )
        failed = await self._store.batches.fail(
            batch.id, errors=shown, errors_total=problems.total, at=now, error_file=error_file
        )
        if failed is not None:
            self._inputs.forget(batch.id)
            metrics.BATCHES_ENDED.labels(failed.status.value).inc()
            self._on_ended()
            log.info("batch refused: %d errors in its input", problems.total, extra=_extra(batch))
        elif blob is not None:
            await self._store.blobs.delete(blob.key)

    def _problems(self, batch: BatchRecord, source: BatchInput) -> Problems:
        index, limits = source.index, self._settings.file_limits
        refused = file_problem(
            limits,
            endpoint=batch.endpoint,
            lines=index.count,
            sub_requests=int(index.column("sub_requests").sum(dtype=np.int64)),
        )
        if refused is not None:
            return one_problem(refused, lines=index.count)
        return find_problems(
            endpoint=batch.endpoint,
            urls=index.urls,
            models=index.models,
            url_column=index.column("url"),
            model_column=index.column("model"),
            error_column=index.column("error"),
            line_column=index.records["line"],  # of broken lines only
            form_errors=lambda: index.iter_errors(source.blob_path),
            pinned=batch.models,
            served={model.id: model for model in self._registry.models()},
            one_model=limits.one_model,
        )

    def _order(
        self, batch: BatchRecord, source: BatchInput, problems: Problems, known: Mapping[int, Known]
    ) -> tuple[list[NewShard], int]:
        """Write the results of broken lines and the execution order of the others, and cut it. Two names of one pinned
        model are one model here."""
        invalid_lines = 0
        if problems.total:
            invalid_lines = write_results(
                self._store.invalid_path(batch.id), batch.id, source, problems, self._store.intake_pace
            )
        index = source.index
        names = [batch.models.get(name) for name in index.models]
        pins = sorted({(pin.id, pin.revision) for pin in names if pin is not None})
        # A name that nothing serves stands only in broken lines, which are not looked up.
        numbers = [0 if pin is None else pins.index((pin.id, pin.revision)) for pin in names]
        valid = np.flatnonzero(~problems.broken) if invalid_lines else None

        def column(name: str, place: int | None = None) -> NDArray[Any]:
            whole = index.column(name, place)
            return whole if valid is None else whole[valid]

        model = _renumbered(column("model"), numbers)
        if self._settings.packing is Packing.PREFIX:
            ordered = partial(execution_order, model=model, ladder_step=lambda step: column("ladder", step))
            order = ordered(output_tokens=column("output_tokens"))
            expected = order_lengths(batch, index.models, column, order, known)
            if expected is not None:
                order = ordered(output_tokens=expected)
        else:
            order = file_order(model=model)
        write_order(source.order_path, order if valid is None else valid[order], lines=index.count)
        cut = cut_shards(
            model=model[order],
            line_bytes=column("length")[order],
            lines_max=shard_lines(len(order), self._settings.shard_lines_max),
            bytes_max=self._settings.shard_bytes_max,
        )
        shards = [NewShard(number, start, stop, *pins[model_no]) for number, (start, stop, model_no) in enumerate(cut)]
        return shards, invalid_lines


def _renumbered(column: NDArray[Any], numbers: list[int]) -> NDArray[Any]:
    table = np.asarray(numbers, dtype=np.uint16)
    renumbered: NDArray[Any] = table[column]
    return renumbered


def _extra(batch: BatchRecord) -> dict[str, object]:
    return {"tenant": batch.tenant, "batch": batch.id}
