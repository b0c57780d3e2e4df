"""Forecasts the disk that a batch will need, and remembers what was forecast for those that run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from engine.protocol import EMBEDDINGS
from engine.registry import Registry
from scheduler.actors.held import HeldShard
from scheduler.actors.inputs import BatchInput
from scheduler.facts.deadlines import lines_left
from scheduler.facts.result_sizes import Accuracy, Asked, ResultSize, result_size
from scheduler.facts.work import ModelKey
from scheduler.policy.admission import Remark
from scheduler.policy.disk_need import COPIES, judge_disk
from scheduler.settings import SchedulerSettings
from store import Store
from store.records import BatchRecord, BatchStatus

SAMPLED_LINES = 64
"""Bodies looked into, evenly over the file, for what the index does not say."""


class _Embedding(msgspec.Struct):
    encoding_format: str | None = None
    dimensions: int | None = None


_decode = msgspec.json.Decoder(_Embedding).decode


class _PerLine(NamedTuple):
    """Bytes of a result: as the index has it, and as far as that was right for others."""

    by_index: float
    corrected: float


class DiskRoom:
    """`going` are all batches that have not ended, as last seen. Of those that ran before a restart nothing is
    remembered: only what they have written counts."""

    def __init__(
        self, store: Store, registry: Registry, settings: SchedulerSettings, going: Callable[[], Sequence[BatchRecord]]
    ) -> None:
        self._store = store
        self._registry = registry
        self._settings = settings
        self._going = going
        self._forecasts: dict[str, _PerLine] = {}
        self._accuracy: dict[tuple[ModelKey, str], Accuracy] = {}

    async def judge(self, batch: BatchRecord, source: BatchInput, *, lines: int) -> Remark | None:
        asked = await asyncio.to_thread(self._asked, batch, source, lines)
        forecast = result_size(asked)
        size = self._corrected(batch, forecast)
        going = self._going()
        self._forecasts = {other.id: self._forecasts[other.id] for other in going if other.id in self._forecasts}
        promised = await self._promised([other for other in going if other.id != batch.id])
        self._forecasts[batch.id] = _PerLine(forecast.likely / max(lines, 1), size.likely / max(lines, 1))
        return judge_disk(
            size,
            free_bytes=self._store.disk.free_bytes(),
            reserve_bytes=self._store.disk.reserve_bytes,
            promised_bytes=promised,
        )

    def learn(self, shard: HeldShard) -> None:
        """A shard is done: its results say how good the forecast was."""
        each = self._forecasts.get(shard.batch_id)
        if each is None or shard.lost or shard.writer is None or shard.lease.earlier or not shard.is_done:
            return
        accuracy = self._accuracy.setdefault((shard.model, shard.endpoint), Accuracy())
        lines = shard.lease.shard.lines
        accuracy.add(lines, forecast=each.by_index * lines, written=shard.writer.valid_bytes)

    async def _promised(self, others: Sequence[BatchRecord]) -> float:
        """What is written has to be copied, and what is not has to be written and copied."""
        to_come = sum(
            lines_left(other) * self._forecasts[other.id].corrected
            for other in others
            if other.status is BatchStatus.IN_PROGRESS and other.id in self._forecasts
        )
        return await self._store.disk.unfinalised_bytes() + COPIES * to_come

    def _corrected(self, batch: BatchRecord, size: ResultSize) -> ResultSize:
        keys = {ModelKey(pin.id, pin.revision) for pin in batch.models.values()}
        known = [self._accuracy[key, batch.endpoint] for key in keys if (key, batch.endpoint) in self._accuracy]
        ratio = max((accuracy.ratio for accuracy in known), default=1.0)
        return ResultSize(size.least, max(size.least, size.likely * ratio), size.why)

    def _asked(self, batch: BatchRecord, source: BatchInput, lines: int) -> Asked:
        index = source.index
        share = lines / max(index.count, 1)  # broken lines have no result to speak of
        sub_requests = np.maximum(index.column("sub_requests"), 1)
        requests = int(sub_requests.sum(dtype=np.int64) * share)
        if batch.endpoint == EMBEDDINGS:
            dimensions, base64_share = self._embedding(batch, source)
            return Asked(batch.endpoint, lines, requests, dimensions=dimensions, base64_share=base64_share)
        outputs = index.column("output_tokens").astype(np.int64)
        outputs[outputs == 0] = self._settings.output_tokens_assumed
        return Asked(
            batch.endpoint,
            lines,
            requests,
            output_tokens=int((outputs * sub_requests).sum() * share),
            prompt_bytes=int(index.column("prompt_bytes").sum(dtype=np.int64) * share),
        )

    def _embedding(self, batch: BatchRecord, source: BatchInput) -> tuple[int | None, float]:
        """The length of its embeddings, and the part of its lines that want them in base64."""
        served = {model.id: model.dimensions for model in self._registry.models()}
        of_models = [served.get(pin.id) for pin in batch.models.values()]
        known = max((length for length in of_models if length is not None), default=None)
        whole = np.flatnonzero(source.index.column("error") == 0)
        places = np.unique(np.linspace(0, max(len(whole) - 1, 0), SAMPLED_LINES).astype(np.int64))
        found = [_of(line.body) for line in source.requests(whole[places].tolist())] if len(whole) else []
        if not found:
            return known, 0.0
        lengths = [one.dimensions or known for one in found]
        told = [length for length in lengths if length is not None]
        mean = round(sum(told) / len(told)) if told else None
        return mean, sum(one.encoding_format == "base64" for one in found) / len(found)


def _of(body: bytes) -> _Embedding:
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Embedding()
