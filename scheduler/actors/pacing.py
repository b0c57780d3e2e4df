"""Writes on every running batch how fast it goes, once per report."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from scheduler.facts.curve import WorkCurve
from scheduler.facts.deadlines import lines_left
from scheduler.facts.pace import Pace, PaceMeter
from store import Store
from store.records import BatchRecord, BatchStatus


class Pacing:
    def __init__(
        self,
        store: Store,
        *,
        now: Callable[[], float],
        monotonic: Callable[[], float],
        curve: Callable[[str], WorkCurve | None] = lambda _batch_id: None,
    ) -> None:
        """`curve` tells how a batch's work lies in its lines, where that is known."""
        self._curve = curve
        self._store = store
        self._now = now
        self._monotonic = monotonic
        self._meters: dict[str, PaceMeter] = {}
        self._shown: dict[str, Pace | None] = {}

    async def report(self, batches: Iterable[BatchRecord]) -> None:
        """`batches` as last seen. One that is paused or has stopped running loses its pace."""
        going = {b.id: b for b in batches if b.status is BatchStatus.IN_PROGRESS}
        running = {name: b for name, b in going.items() if b.paused_at is None and b.held_at is None}
        for gone in self._meters.keys() - running.keys():
            del self._meters[gone]
        paces = {name: self._measure(batch) for name, batch in running.items()}
        paces |= {name: None for name, b in going.items() if name not in running and b.lines_per_s is not None}
        changed = {name: pace for name, pace in paces.items() if self._shown.get(name) != pace}
        if changed:
            await self._store.batches.show_pace({name: _columns(pace) for name, pace in changed.items()})
        self._shown = {name: pace for name, pace in {**self._shown, **changed}.items() if name in going}

    def _measure(self, batch: BatchRecord) -> Pace | None:
        meter = self._meters.setdefault(batch.id, PaceMeter())
        counts, usage = batch.counts, batch.usage
        meter.add(
            self._monotonic(),
            lines=counts.completed + counts.failed,
            tokens=usage.output_tokens or usage.input_tokens,
        )
        curve = self._curve(batch.id)
        return meter.pace(
            lines_left=lines_left(batch),
            wall_now=self._now(),
            work=None if curve is None else lambda lines: curve.done(lines - batch.invalid_lines),
        )


def _columns(pace: Pace | None) -> tuple[float | None, float | None, int | None]:
    return (None, None, None) if pace is None else (pace.lines_per_s, pace.tokens_per_s, pace.eta_at)
