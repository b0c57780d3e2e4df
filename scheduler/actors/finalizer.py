"""Ends batches: composes output and error files from the segments and commits them with the final status."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from scheduler import metrics
from scheduler.actors.inputs import BatchInput, Inputs
from scheduler.facts import result_lines
from scheduler.facts.result_files import result_file
from scheduler.settings import SchedulerSettings
from store import Store
from store.asked import AskedReader
from store.blobs import StoredBlob
from store.composing import Composed, compose
from store.ended import EndedResults
from store.kept_answers import KeptAnswers
from store.markers import reach
from store.pacing import Pace
from store.quality import Quality, quality_of
from store.records import (
    BatchRecord,
    BatchStatus,
    Damaged,
    DiskFull,
    FileRecord,
    LineError,
    RequestCounts,
    SegmentRef,
    TokenUsage,
)
from store.segments import scan

JUDGED_AT_ONCE = 256

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a batch ends: its status, and what stands in the error file for lines without a result."""

    to: BatchStatus
    missing: result_lines.LineError
    errors: tuple[LineError, ...] = ()


EXPIRED = Ending(BatchStatus.EXPIRED, result_lines.EXPIRED)
CANCELLED = Ending(BatchStatus.CANCELLED, result_lines.CANCELLED)


class Finalizer:
    """Every step may be repeated: until the final transaction a batch has no files, after it nothing is left to do."""

    def __init__(
        self,
        store: Store,
        settings: SchedulerSettings,
        inputs: Inputs,
        *,
        now: Callable[[], float],
        on_ended: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_ended` is called when a batch has its final status."""
        self._store = store
        self._settings = settings
        self._inputs = inputs
        self._now = now
        self._on_ended = on_ended

    async def begin(self, batch: BatchRecord) -> None:
        """in_progress -> finalizing: every shard is sealed, or the deadline has passed. Then end it.

        DiskFull while the batch can still show why it waits, rather than half way through composing.
        """
        await self._check_room(batch)
        moved = await self._store.batches.move(
            batch.id, expected={BatchStatus.IN_PROGRESS}, to=BatchStatus.FINALIZING, at=int(self._now())
        )
        if moved is None:
            return
        reach("finalize.started")
        await self.end(moved)

    async def end(self, batch: BatchRecord) -> None:
        """End a batch that is finalizing or cancelling. Does nothing while somebody may still append to it, nor when it
        has moved on since it was looked at: the segments of an ended batch are gone, which is no damage."""
        try:
            await self._end_as_it_stands(batch)
        except Exception as error:
            if not await self._has_moved_on(batch):
                raise
            log.debug("another ended the batch meanwhile: %s", error, extra={"tenant": batch.tenant, "batch": batch.id})

    async def _end_as_it_stands(self, batch: BatchRecord) -> None:
        if await self._has_moved_on(batch) or await self._store.work.leased(batch.id):
            return
        if batch.status is BatchStatus.CANCELLING:
            await self._end(batch, CANCELLED)
        elif await self._store.work.remaining(batch.id):
            await self._end(batch, EXPIRED)
        else:
            await self._end(batch, None)

    async def fail(self, batch: BatchRecord, error: Exception, *, bare: bool = False) -> None:
        """End a batch beyond repair as `failed`; what is whole of it is still delivered (`bare`: that failed too)."""
        shown = _shown(error)
        if batch.status is BatchStatus.VALIDATING:
            if await self._store.batches.fail(batch.id, errors=[shown], errors_total=1, at=int(self._now())):
                self._ended(batch, BatchStatus.FAILED)
            return
        if await self._has_moved_on(batch) or await self._store.work.leased(batch.id):
            return
        ending = Ending(BatchStatus.FAILED, result_lines.DAMAGED, (shown,))
        if bare:
            await self._commit(batch, ending, Composed(None, None, batch.counts, batch.usage))
        else:
            await self._end(batch, ending)

    async def _has_moved_on(self, batch: BatchRecord) -> bool:
        now = await self._store.batches.get(batch.tenant, batch.id)
        return now is None or now.status is not batch.status

    async def _end(self, batch: BatchRecord, ending: Ending | None) -> None:
        """`ending` None: every line should have its result, and the batch is then `completed`."""
        started = time.perf_counter()
        composed, missing_lines = await self._compose(batch, ending)
        if ending is None and missing_lines:
            await self._discard(composed)
            raise Damaged(
                f"{missing_lines} results of batch {batch.id} are missing from its sealed segments in "
                f"{self._store.order_path(batch.id).parent}"
            )
        if ending is EXPIRED and not missing_lines:
            ending = None  # the last result came in time, only its seal did not
        reach("finalize.composed")
        quality = await self._quality(batch, composed, missing_lines)
        await self._commit(batch, ending or Ending(BatchStatus.COMPLETED, result_lines.DAMAGED), composed, quality)
        metrics.FINALIZE_SECONDS.observe(time.perf_counter() - started)

    async def _compose(self, batch: BatchRecord, ending: Ending | None) -> tuple[Composed, int]:
        if batch.counts.total == 0:
            return Composed(None, None, RequestCounts(), TokenUsage()), 0
        failing = ending is not None and ending.to is BatchStatus.FAILED
        refs = await self._store.work.segments(batch.id)
        paths, shard_nos = self._paths(batch, refs), None
        if failing:  # segments may be left out: a reader's place among the results means nothing any more
            paths = await asyncio.to_thread(_whole, paths)
        else:
            start = 1 if batch.invalid_lines else 0
            shard_nos = [0] * start + [ref.shard_no + start for ref in refs]
        source = await self._source(batch, needed=not failing)
        error = result_lines.DAMAGED if ending is None else ending.missing
        missing_lines = 0

        def missing(line_nos: Sequence[int]) -> list[bytes]:
            nonlocal missing_lines
            missing_lines += len(line_nos)
            return _missing_lines(batch.id, _custom_ids(source, line_nos, damaged=failing), line_nos, error)

        composed = await compose(
            paths, batch.counts.total, missing, self._store.blobs, shard_nos, self._store.intake_pace
        )
        return composed, missing_lines

    async def _quality(self, batch: BatchRecord, composed: Composed, missing_lines: int) -> str | None:
        """The quality of all results, read from the composed files; None where the sealed shards came to it already."""
        if not composed.counts.total:
            return None
        if not missing_lines and Quality.decode(batch.quality).lines == composed.counts.total:
            return None
        source = await self._source(batch, needed=False)
        try:
            pace = self._store.intake_pace
            return await pace.run(_judged, batch.id, composed, source, self._store.blobs.path, pace)
        except Exception:  # a batch ends, whatever can be said of its answers
            log.exception("the quality of results could not be read", extra={"tenant": batch.tenant, "batch": batch.id})
            return None

    async def _source(self, batch: BatchRecord, *, needed: bool) -> BatchInput | None:
        try:
            return await self._inputs.open(batch)
        except Damaged:
            if needed:
                raise
            return None

    def _paths(self, batch: BatchRecord, refs: Sequence[SegmentRef]) -> list[tuple[Path, int | None]]:
        """All segments that count, with what counts of each; before them the one of lines that validation refused."""
        paths: list[tuple[Path, int | None]] = [
            (self._store.segment_path(ref.batch_id, ref.shard_no, ref.generation), ref.valid_bytes) for ref in refs
        ]
        if batch.invalid_lines:
            paths.insert(0, (self._store.invalid_path(batch.id), None))
        return paths

    async def _commit(self, batch: BatchRecord, ending: Ending, composed: Composed, quality: str | None = None) -> None:
        now = int(self._now())
        ended = await self._store.work.finish(
            batch.id,
            expected={batch.status},
            to=ending.to,
            at=now,
            output=self._file(batch, composed.output, "output", now),
            error=self._file(batch, composed.error, "error", now),
            counts=composed.counts,
            usage=composed.usage,
            errors=ending.errors,
            errors_total=len(ending.errors),
            quality=quality,
        )
        if ended is None:  # it was cancelled meanwhile, or another scheduler ended it
            await self._discard(composed)
            return
        reach("finalize.committed")
        self._ended(batch, ending.to)
        kept = self._store.kept.take_away(batch.id)
        await asyncio.to_thread(_clear, self._store.order_path(batch.id).parent, kept)

    def _file(self, batch: BatchRecord, blob: StoredBlob | None, kind: str, now: int) -> FileRecord | None:
        if blob is None:
            return None
        retention_seconds = self._settings.output_retention_seconds
        return result_file(
            batch, blob=blob.key, size=blob.bytes, kind=kind, now=now, retention_seconds=retention_seconds
        )

    def _ended(self, batch: BatchRecord, status: BatchStatus) -> None:
        self._inputs.forget(batch.id)
        metrics.BATCHES_ENDED.labels(status.value).inc()
        log.info("batch %s", status.value, extra={"tenant": batch.tenant, "batch": batch.id})
        self._on_ended()

    async def _discard(self, composed: Composed) -> None:
        for blob in (composed.output, composed.error):
            if blob is not None:
                await self._store.blobs.delete(blob.key)

    async def _check_room(self, batch: BatchRecord) -> None:
        """The files of a batch are about as large as its segments, which can go only afterwards."""
        paths = [path for path, _ in self._paths(batch, await self._store.work.segments(batch.id))]
        needed = await asyncio.to_thread(_bytes_of, paths)
        free = self._store.disk.free_bytes()
        if free < needed:
            raise DiskFull(f"The results need {needed:,} bytes of disk, but {free:,} are free")


def _clear(folder: Path, kept: KeptAnswers | None) -> None:
    """Take away what was there for a batch that has ended."""
    if kept is not None:
        kept.close()
    shutil.rmtree(folder, ignore_errors=True)


def _shown(error: Exception) -> LineError:
    if isinstance(error, Damaged):
        return LineError("damaged_file", f"The batch could not be finished: {error}.")
    return LineError(
        result_lines.INTERNAL_CODE, "The batch could not be finished: the server failed on it, its log says why."
    )


def _whole(paths: Sequence[tuple[Path, int | None]]) -> list[tuple[Path, int | None]]:
    """The segments that can be read; the others are named in the log."""
    whole = []
    for path, valid_bytes in paths:
        try:
            scan(path, valid_bytes)
        except Damaged as error:
            log.error("left out of the results: %s", error)
        else:
            whole.append((path, valid_bytes))
    return whole


def _judged(
    batch_id: str, composed: Composed, source: BatchInput | None, path_of: Callable[[str], Path], pace: Pace
) -> str:
    paths = [None if blob is None else path_of(blob.key) for blob in (composed.output, composed.error)]
    total, asked = Quality(), AskedReader()
    with EndedResults(batch_id, composed.counts.total, *paths, pace=pace) as results:
        walk = iter(results)
        while group := list(islice(walk, JUDGED_AT_ONCE)):
            bodies = _bodies(source, [result.line_no for result in group if result.succeeded])
            rows = ((one.line_no, one.succeeded, one.raw, bodies.get(one.line_no)) for one in group)
            total.merge(quality_of(rows, asked))
    return total.encode()


def _bodies(source: BatchInput | None, line_nos: Sequence[int]) -> dict[int, bytes]:
    if source is None or not line_nos:
        return {}
    try:
        return dict(zip(line_nos, (line.body for line in source.requests(line_nos)), strict=True))
    except Damaged:
        return {}


def _bytes_of(paths: Sequence[Path]) -> int:
    return sum(path.stat().st_size for path in paths if path.exists())


def _custom_ids(source: BatchInput | None, line_nos: Sequence[int], *, damaged: bool) -> list[str]:
    """Of a damaged input as many as are left, the others empty: what is whole of the results is delivered all the
    same."""
    if source is None:
        return [""] * len(line_nos)
    return source.custom_ids_left(line_nos) if damaged else [line.custom_id for line in source.requests(line_nos)]


def _missing_lines(
    batch_id: str, custom_ids: Sequence[str], line_nos: Sequence[int], error: result_lines.LineError
) -> list[bytes]:
    """Error lines for lines without a result."""
    return [
        result_lines.unanswered_line(batch_id, line_no, custom_id, error)
        for line_no, custom_id in zip(line_nos, custom_ids, strict=True)
    ]
