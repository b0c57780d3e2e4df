"""Makes results durable: in groups, one segment part per group and shard, and seals a shard that is done."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from scheduler import metrics
from scheduler.actors.held import HeldShard
from scheduler.actors.waking import sleep_until
from scheduler.settings import SchedulerSettings
from store import Store
from store.markers import reach
from store.quality import quality_of
from store.records import DiskFull, LineResult, StaleLease, TokenUsage
from store.segments import SegmentWriter

log = logging.getLogger(__name__)


class Recorder:
    """`on_ended` is called on the loop when a shard is sealed or lost; `on_blocked` when the disk refuses its results,
    with why, and with None when it takes them again.

    Appends run on threads of their own, so that a long composition cannot delay them.
    """

    def __init__(
        self,
        store: Store,
        settings: SchedulerSettings,
        *,
        monotonic: Callable[[], float],
        on_ended: Callable[[HeldShard], None],
        on_blocked: Callable[[HeldShard, str | None], None],
    ) -> None:
        self._store = store
        self._settings = settings
        self._monotonic = monotonic
        self._on_ended = on_ended
        self._on_blocked = on_blocked
        self._threads = ThreadPoolExecutor(settings.append_threads_max, thread_name_prefix="append")

    def record(self, shard: HeldShard, result: LineResult) -> None:
        """Take a result; it is durable within about `append_interval_ms`."""
        if shard.dropped:
            metrics.LINES_REGENERATED.inc()
            return
        shard.buffer.append(result)
        shard.buffer_bytes += len(result.line)
        self._see_to(shard)

    def check(self, shard: HeldShard) -> None:
        """Seal a shard that had every result when it was leased."""
        if shard.is_answered and not shard.dropped:
            self._see_to(shard)

    async def let_go(self, shard: HeldShard) -> None:
        """Write what is buffered, once, and close the segment. The shard takes no more results afterwards."""
        shard.leaving = True
        if shard.flusher is not None:
            shard.flush_now.set()
            await asyncio.wait([shard.flusher])
        shard.dropped = True
        await self.close_writer(shard)

    async def close(self) -> None:
        """Wait for the threads. After this nothing is written any more."""
        await asyncio.to_thread(self._threads.shutdown)

    def _see_to(self, shard: HeldShard) -> None:
        if shard.flusher is None:
            shard.flusher = asyncio.create_task(self._run(shard), name=f"flush {shard.batch_id} {shard.shard_no}")
        if self._is_due(shard):
            shard.flush_now.set()

    def _is_due(self, shard: HeldShard) -> bool:
        """Nothing is gained by waiting. It may have become so while the group before was being written, whose results
        are neither in the buffer nor durable then."""
        return shard.is_answered or self._is_full(shard)

    def _is_full(self, shard: HeldShard) -> bool:
        settings = self._settings
        return len(shard.buffer) >= settings.append_results_max or shard.buffer_bytes >= settings.append_bytes_max

    async def _run(self, shard: HeldShard) -> None:
        try:
            await self._flush_groups(shard)
            if shard.is_done and not shard.dropped:
                await self._seal(shard)
        except StaleLease as error:
            self.lose(shard, str(error))
        except Exception as error:
            # Nothing is known of what reached the disk: give the shard up, its next holder reads the segment.
            log.exception("appending to a segment failed", extra=shard.log_extra())
            self.lose(shard, f"appending failed: {error!r}", error)
        finally:
            shard.flusher = None

    async def _flush_groups(self, shard: HeldShard) -> None:
        refusals = 0
        while shard.buffer and not shard.dropped:
            wait = (
                self._settings.append_interval_ms / 1000 if not refusals else self._settings.backoff_seconds(refusals)
            )
            if refusals or not self._is_due(shard):
                await sleep_until(shard.flush_now, wait)
            shard.flush_now.clear()
            try:
                await self._append(shard)
            except DiskFull as error:
                if shard.leaving:
                    raise
                refusals += 1
                if not shard.blocked:
                    log.error("results wait in memory: %s", error.for_log, extra=shard.log_extra())
                shard.blocked = True
                self._on_blocked(shard, str(error))
            else:
                refusals = 0
                if shard.blocked:
                    shard.blocked = False
                    self._on_blocked(shard, None)

    async def _append(self, shard: HeldShard) -> None:
        """One group. On DiskFull the results are back in the buffer and the segment is as it was."""
        age = self._monotonic() - shard.confirmed_at
        if age > self._settings.fence_seconds:
            raise StaleLease(f"the lease was not renewed for {age:.1f} s, another may have taken the shard")
        if shard.dropped:
            return
        group, shard.buffer = shard.buffer, []
        size, shard.buffer_bytes = shard.buffer_bytes, 0
        try:
            seconds = await asyncio.get_running_loop().run_in_executor(self._threads, self._write, shard, group)
        except BaseException:
            shard.buffer[:0] = group
            shard.buffer_bytes += size
            raise
        metrics.APPEND_SECONDS.observe(seconds)
        self._count(shard, group)
        shard.appended.set()

    def _write(self, shard: HeldShard, group: list[LineResult]) -> float:
        started = time.perf_counter()
        if shard.writer is None:
            path = self._store.segment_path(shard.batch_id, shard.shard_no, shard.lease.generation)
            shard.writer = SegmentWriter.create(path)
        shard.writer.append(group)
        self._judge(shard, group)
        self._keep(shard, group)
        return time.perf_counter() - started

    def _judge(self, shard: HeldShard, group: list[LineResult]) -> None:
        """Whatever goes wrong here must not cost a result: it is durable already."""
        if shard.quality is None:
            return
        results = ((result.line_no, result.succeeded, result.line, result.request) for result in group)
        try:
            shard.quality.merge(quality_of(results, shard.asked))
        except Exception:
            log.exception("the quality of results could not be read", extra=shard.log_extra())
            shard.quality = None

    def _keep(self, shard: HeldShard, group: list[LineResult]) -> None:
        """Let others have the answers. This must not cost a result either."""
        if shard.kept is None:
            return
        try:
            shard.kept.keep([result.keep for result in group if result.keep is not None])
        except Exception:
            log.exception("answers could not be kept", extra=shard.log_extra())

    def _count(self, shard: HeldShard, group: list[LineResult]) -> None:
        completed = sum(result.succeeded for result in group)
        shard.completed += completed
        shard.failed += len(group) - completed
        shard.reused += sum(result.reused for result in group)
        used = TokenUsage(
            sum([result.usage.input_tokens for result in group]),
            sum([result.usage.cached_tokens for result in group]),
            sum([result.usage.output_tokens for result in group]),
        )
        shard.usage += used
        metrics.LINES_DONE.labels("completed").inc(completed)
        metrics.LINES_DONE.labels("failed").inc(len(group) - completed)
        metrics.TOKENS.labels("input").inc(used.input_tokens)
        metrics.TOKENS.labels("cached").inc(used.cached_tokens)
        metrics.TOKENS.labels("output").inc(used.output_tokens)

    async def _seal(self, shard: HeldShard) -> None:
        shard.sealing = True
        if not await self._store.work.seal(shard.lease, shard.whole()):
            raise StaleLease("the shard was taken over before it could be sealed")
        reach("shard.sealed")
        self._end(shard)

    def lose(self, shard: HeldShard, reason: str, error: Exception | None = None) -> None:
        """Stop at once: what is buffered is forgotten and its lines run again under the next lease."""
        if shard.dropped:
            return
        shard.lost = True
        shard.lost_by = error
        metrics.LINES_REGENERATED.inc(len(shard.buffer))
        log.warning("shard lost: %s", reason, extra=shard.log_extra())
        self._end(shard)

    def _end(self, shard: HeldShard) -> None:
        shard.dropped = True
        shard.buffer = []
        shard.buffer_bytes = 0
        self._on_ended(shard)

    async def close_writer(self, shard: HeldShard) -> None:
        """Close the segment, never under an append that is still running."""
        if shard.flusher is not None:
            await asyncio.wait([shard.flusher])
        writer, shard.writer = shard.writer, None
        if writer is not None:
            writer.close()
