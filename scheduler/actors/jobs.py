"""Work on one batch at a time: started once, bounded in number, and tried again when it ends unexpectedly."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from scheduler import metrics
from scheduler.settings import SchedulerSettings
from store.records import BatchRecord, Damaged, DiskFull, StoreError

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Trouble:
    """`attempts` counts unexpected ends; a full disk or a locked database delays a job but never uses them up."""

    attempts: int = 0
    refusals: int = 0
    not_before: float = 0.0


class Jobs:
    """Jobs by (kind, batch). What goes wrong with one batch never reaches another.

    `on_hopeless` is called for a batch whose job ended unexpectedly `job_attempts_max` times, or at once when a file is
    damaged; `on_disk_full` when the disk refused it (it is tried again); `on_end` after every job.
    """

    def __init__(
        self,
        settings: SchedulerSettings,
        *,
        monotonic: Callable[[], float],
        on_hopeless: Callable[[str, BatchRecord, Exception], Awaitable[None]],
        on_disk_full: Callable[[BatchRecord, DiskFull], Awaitable[None]],
        on_end: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._monotonic = monotonic
        self._on_hopeless = on_hopeless
        self._on_disk_full = on_disk_full
        self._on_end = on_end
        self._running: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._trouble: dict[tuple[str, str], _Trouble] = {}

    def count(self, kind: str) -> int:
        return sum(1 for running, _ in self._running if running == kind)

    def may_start(self, kind: str, batch_id: str) -> bool:
        """Whether no such job is running and none has failed just now."""
        trouble = self._trouble.get((kind, batch_id))
        rested = trouble is None or self._monotonic() >= trouble.not_before
        return rested and (kind, batch_id) not in self._running

    def start(self, kind: str, batch: BatchRecord, work: Callable[[], Awaitable[None]]) -> None:
        key = (kind, batch.id)
        assert key not in self._running
        task = asyncio.create_task(self._run(kind, batch, work), name=f"{kind} {batch.id}")
        self._running[key] = task

    async def failed(self, kind: str, batch: BatchRecord, error: Exception) -> None:
        """Count an unexpected end that happened outside of a job."""
        metrics.JOB_FAILURES.labels(kind.split(maxsplit=1)[0]).inc()
        if self._delay(kind, batch).attempts >= self._settings.job_attempts_max:
            await self._guarded(kind, batch, self._on_hopeless(kind, batch, error))

    def refused(self, kind: str, batch: BatchRecord) -> None:
        """The store could not do it now: try again later, however often."""
        self._delay(kind, batch, refused=True)

    def forget(self, active: frozenset[str]) -> None:
        """Drop what is remembered of batches that have ended."""
        for key in [key for key in self._trouble if key[1] not in active]:
            del self._trouble[key]

    async def stop(self, seconds: float = 0.0) -> None:
        """Wait for what is running, then cancel the rest."""
        tasks = set(self._running.values())
        if tasks and seconds > 0:
            _, tasks = await asyncio.wait(tasks, timeout=seconds)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _run(self, kind: str, batch: BatchRecord, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
            self._trouble.pop((kind, batch.id), None)
        except DiskFull as error:
            log.error("%s waits for disk space: %s", kind, error.for_log, extra=_extra(batch))
            self.refused(kind, batch)
            await self._guarded(kind, batch, self._on_disk_full(batch, error))
        except Damaged as error:
            log.error("%s found damage: %s", kind, error, extra=_extra(batch))
            self._delay(kind, batch)
            await self._guarded(kind, batch, self._on_hopeless(kind, batch, error))
        except StoreError as error:  # the store's trouble, not this batch's
            log.error("%s waits for the store: %s", kind, error, extra=_extra(batch))
            self.refused(kind, batch)
        except Exception as error:
            log.exception("%s ended unexpectedly", kind, extra=_extra(batch))
            await self.failed(kind, batch, error)
        finally:
            del self._running[kind, batch.id]
            self._on_end()

    async def _guarded(self, kind: str, batch: BatchRecord, handling: Awaitable[None]) -> None:
        try:
            await handling
        except StoreError as error:
            log.error("a failed %s could not be noted: %s", kind, error, extra=_extra(batch))
        except Exception:
            log.exception("handling a failed %s ended unexpectedly; it is tried again", kind, extra=_extra(batch))

    def _delay(self, kind: str, batch: BatchRecord, *, refused: bool = False) -> _Trouble:
        trouble = self._trouble.setdefault((kind, batch.id), _Trouble())
        if refused:
            trouble.refusals += 1
        else:
            trouble.attempts += 1
        wait = self._settings.backoff_seconds(trouble.refusals if refused else trouble.attempts)
        trouble.not_before = self._monotonic() + wait
        return trouble


def _extra(batch: BatchRecord) -> dict[str, object]:
    return {"tenant": batch.tenant, "batch": batch.id}
