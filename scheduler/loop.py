"""The loop: looks at the store and the engines once per tick, asks the planner, and sets the actors to work."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from engine.registry import Registry
from engine.slo import Slo
from scheduler import metrics
from scheduler.actors.admission import Admission
from scheduler.actors.disk_room import DiskRoom
from scheduler.actors.dispatcher import Dispatcher
from scheduler.actors.explainer import Explainer
from scheduler.actors.feeds import Feeds
from scheduler.actors.finalizer import Finalizer
from scheduler.actors.held import HeldShard
from scheduler.actors.inputs import Inputs
from scheduler.actors.intake import Intake
from scheduler.actors.jobs import Jobs
from scheduler.actors.keeper import Keeper
from scheduler.actors.leases import Leases
from scheduler.actors.life import EngineLife
from scheduler.actors.measures import Measures
from scheduler.actors.notifier import Notifier, Target
from scheduler.actors.pacing import Pacing
from scheduler.actors.predictions import Predictions
from scheduler.actors.reaper import Reaper
from scheduler.actors.recorder import Recorder
from scheduler.actors.signal import Signal
from scheduler.actors.throttle import Throttle
from scheduler.actors.waking import attempt, repeat, sleep_until
from scheduler.actors.watch import Watch
from scheduler.facts.deadlines import must_expire, newly_missed
from scheduler.policy.holding import Hold, holding
from scheduler.policy.life import Lives, wanted_models
from scheduler.policy.planner import Limits, Plan, Snapshot, plan, wanted_lines
from scheduler.policy.terms import Terms
from scheduler.settings import SchedulerSettings
from store import Store
from store.records import BatchRecord, BatchStatus, DiskFull

log = logging.getLogger(__name__)

FOREVER_AT = 2.0**40
"""A time after every lease's expiry."""

FINALIZE = "finalize"
INTAKE = "intake"
FAIL = "fail"


class Scheduler:
    """Runs the batches of one store on the engines of one registry. Several may share a store, each with its `holder`.

    Wake-ups are hints: without one, everything happens a tick later.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        settings: SchedulerSettings,
        *,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        holder: str,
        hold: Hold | None = None,
        signal: Signal | None = None,
        terms: Terms | None = None,
        targets: Sequence[Target] = (),
        lives: Lives = Lives(),  # noqa: B008 (frozen)
        start_seconds: Callable[[str], float] = lambda _engine: 0.0,
        slos: Mapping[str, Slo] | None = None,
    ) -> None:
        """`hold` None: batches run at any hour, also while `signal` says to wait. `terms`: tiers, shares, admission.
        `targets` hear of batches that end; they are closed with the loop.
        `lives` are the engines that come and go by this scheduler's word, `start_seconds` what their starts take.
        `slos`, by engine name, are what online requests were promised."""
        self._store = store
        self._settings = settings
        self._hold = hold
        self._signal = signal
        self._terms = terms or (Terms() if hold is None else Terms(calendar=hold.calendar))
        self._now = now
        self._monotonic = monotonic
        self._limits = Limits(
            settings.shards_open_max, settings.waiting_multiple, settings.waiting_lines_min, settings.waiting_seconds
        )
        self._inputs = Inputs(store)
        self._predictions = Predictions(store.folder, settings)
        self._measures = Measures(registry, settings, self._inputs, self._terms, curve=self._predictions.curve)
        self._watch = Watch(store, registry, settings, self._measures, self._terms)
        self._recorder = Recorder(
            store, settings, monotonic=monotonic, on_ended=self._shard_ended, on_blocked=self._shard_blocked
        )
        self._dispatcher = Dispatcher(
            registry,
            settings,
            record=self._recorder.record,
            on_low=self.wake,
            monotonic=monotonic,
            predictions=self._predictions if settings.predict_lengths else None,
        )
        self._feeds = Feeds(registry, monotonic=monotonic)
        self.throttle = Throttle(
            registry,
            self._dispatcher,
            settings.throttle,
            slos=slos,
            monotonic=monotonic,
        )
        self._jobs = Jobs(
            settings,
            monotonic=monotonic,
            on_hopeless=self._give_up,
            on_disk_full=self._pause_for_disk,
            on_end=self.wake,
        )
        self._leases = Leases(store, settings, holder=holder, now=now, monotonic=monotonic)
        self._keeper = Keeper(
            registry, settings, self._inputs, self._leases, self._dispatcher, self._recorder, self._jobs, wake=self.wake
        )
        self._life = EngineLife(
            registry, lives, now=now, start_seconds=start_seconds, look_seconds=settings.life_look_seconds
        )
        admission = Admission(
            self._measures,
            self._terms,
            hold,
            going=lambda: list(self._batches.values()),
            served=self._life.served,
        )
        self._news = asyncio.Event()
        tell = self._news.set if targets else lambda: None
        self._disk_room = DiskRoom(store, registry, settings, going=lambda: list(self._batches.values()))
        self._intake = Intake(
            store,
            registry,
            settings,
            self._inputs,
            self._measures,
            admission,
            self._disk_room,
            now=now,
            on_ended=tell,
            known=self._predictions.known,
        )
        self._finalizer = Finalizer(store, settings, self._inputs, now=now, on_ended=tell)
        self._reaper = Reaper(store, settings, now=now)
        self._notifier = Notifier(store, targets, now=now)
        self._pacing = Pacing(store, now=now, monotonic=monotonic, curve=self._predictions.curve)
        self._explainer = Explainer(store, registry, pressures=self.throttle.views)
        self._looked: tuple[Snapshot, Plan] | None = None
        self._batches: dict[str, BatchRecord] = {}
        self._hopeless: dict[str, tuple[Exception, bool]] = {}
        self._counted_at = monotonic()
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        self._ended = asyncio.Event()
        self._running = False
        registry.on_change(self._engines_changed)

    def wake(self) -> None:
        """Something may have changed: look soon. From the event loop's thread only."""
        self._wake.set()

    # --- life

    async def run(self) -> None:
        """Run until `stop` is called or the task is cancelled; then give everything back that is held."""
        if self._running:
            raise RuntimeError("this scheduler is running already")
        self._running = True
        settings = self._settings
        loops: list[asyncio.Task[None]] = []
        try:
            if settings.sole_scheduler:
                await self._store.work.reclaim(now=FOREVER_AT)
            await self._watch.measure_disk()
            await self._predictions.load()
            await self._notifier.start()
            loops = [
                asyncio.create_task(self._tick_forever(), name="tick"),
                asyncio.create_task(self._life.run(), name="engine life"),
                asyncio.create_task(self.throttle.run(), name="throttle"),
                asyncio.create_task(repeat(settings.renew_seconds, self._keeper.renew), name="renew"),
                asyncio.create_task(repeat(settings.report_seconds, self._report), name="report"),
                asyncio.create_task(repeat(settings.disk_check_seconds, self._measure_disk), name="disk"),
                asyncio.create_task(repeat(settings.reap_seconds, self._reaper.reap, at_once=True), name="reap"),
                asyncio.create_task(
                    repeat(settings.notify_seconds, self._notifier.look, at_once=True, asked=self._news), name="notify"
                ),
                asyncio.create_task(repeat(settings.reap_seconds, self._notifier.forget), name="forget events"),
                asyncio.create_task(repeat(settings.reap_seconds, self._predictions.save), name="save lengths"),
            ]
            if self._signal is not None:
                looking = repeat(self._signal.every_seconds, self._look_outside, at_once=True)
                loops.append(asyncio.create_task(looking, name="signal"))
            await self._stop.wait()
        finally:
            await self._shut(loops)

    async def stop(self, drain_seconds: float) -> None:
        """Lease nothing more, give what is in flight `drain_seconds` to finish, write it, free the leases, end."""
        self._keeper.stopping = True
        if self._running:
            await asyncio.gather(self._dispatcher.drain(drain_seconds), self._jobs.stop(drain_seconds))
            self._stop.set()
            await self._ended.wait()

    async def _shut(self, loops: Sequence[asyncio.Task[None]]) -> None:
        self._keeper.stopping = True
        for task in loops:
            task.cancel()
        if loops:
            await asyncio.wait(loops)
        await self._life.close()
        await self._jobs.stop()
        await self._notifier.close()
        if self._signal is not None:
            await self._signal.close()
        await self._dispatcher.drain(0)
        await self._keeper.close()
        await self._recorder.close()
        await self._predictions.save()
        self._ended.set()

    async def _tick_forever(self) -> None:
        refusal: str | None = None
        while True:
            self._wake.clear()
            refusal = await attempt(self.tick, refusal)
            await asyncio.sleep(self._settings.tick_seconds_min)
            await sleep_until(self._wake, self._settings.tick_seconds)

    # --- one tick

    async def tick(self) -> None:
        batches = await self._store.batches.active()
        self._batches = {batch.id: batch for batch in batches}
        metrics.show_batches(batches)
        for batch_id in self._hopeless.keys() - self._batches.keys():
            del self._hopeless[batch_id]
        self._jobs.forget(frozenset(self._batches))
        running = [b for b in batches if b.status is BatchStatus.IN_PROGRESS and b.id not in self._hopeless]
        served = self._life.served()
        held = holding(
            running,
            self._hold,
            now=self._now(),
            seconds_per_line=self._measures.seconds_per_line(),
            relative_size=self._measures.relative_sizes(running),
            peak_share=self._measures.peak_share(),
            busy=None if self._signal is None else self._signal.reason(),
            served=served,
        )
        waiting = held.waits
        self._keeper.keep_only(self._kept(running, waiting.keys()))
        if self._keeper.stopping:
            return
        shards = await self._watch.shards_of(running)
        with_work = {shard.batch_id for shard in shards}
        paused = {batch.id for batch in running if batch.paused_at is not None}
        self._measures.settle(running, able=with_work - waiting.keys() - paused)
        for batch in batches:
            await self._see_to(batch, is_done=batch.id not in with_work)
        snapshot = self._watch.snapshot(
            now=self._now(),
            batches=running,
            shards=shards,
            held=self._keeper.views(),
            holding=held,
            served=served,
        )
        planned = plan(snapshot, self._limits)
        self._dispatcher.rank(planned.ranking, wanted_lines(snapshot, self._limits), planned.hurried)
        for batch_id, shard_no in planned.returns:
            self._keeper.give_back(batch_id, shard_no)
        for record in planned.leases:
            batch_found = self._batches.get(record.batch_id)
            if batch_found is not None:
                self._keeper.lease(record, batch_found)
        self._dispatcher.pump()
        rates = {key.id: seconds for key, seconds in snapshot.seconds_per_line.items()}
        self._life.want(wanted_models(running, shards, waits=waiting.keys(), now=snapshot.now, seconds_per_line=rates))
        await self._apply_pauses(planned)
        self._looked = (snapshot, planned)

    def _kept(self, running: Sequence[BatchRecord], waiting: Collection[str]) -> set[str]:
        """The batches whose shards stay here. Lines on an engine that is about to leave may finish, but for those that
        a person has paused; when it has left, nothing is held for it."""
        draining, absent = self._life.draining(), self._life.absent()
        kept = set()
        for batch in running:
            models = {pin.id for pin in batch.models.values()}
            runs = batch.id not in waiting or (batch.held_at is None and not draining.isdisjoint(models))
            if runs and (not models or not models <= absent):
                kept.add(batch.id)
        return kept

    async def _see_to(self, batch: BatchRecord, *, is_done: bool) -> None:
        """Start the job that moves the batch on, if it is time for one."""
        if batch.id in self._hopeless:
            error, bare = self._hopeless[batch.id]
            self._start(FAIL, batch, lambda: self._finalizer.fail(batch, error, bare=bare))
        elif batch.status is BatchStatus.VALIDATING:
            if self._jobs.count(INTAKE) < self._settings.intakes_max:
                self._start(INTAKE, batch, lambda: self._intake.take_in(batch))
        elif batch.status is BatchStatus.IN_PROGRESS:
            if newly_missed(batch, now=self._now()):
                await self._store.batches.miss_deadline(batch.id, at=int(self._now()))
            if (is_done or must_expire(batch, now=self._now())) and self._may_finalize():
                self._start(FINALIZE, batch, lambda: self._finalizer.begin(batch))
        elif self._may_finalize():
            self._start(FINALIZE, batch, lambda: self._finalizer.end(batch))

    def _start(self, kind: str, batch: BatchRecord, work: Callable[[], Awaitable[None]]) -> None:
        if self._jobs.may_start(kind, batch.id):
            self._jobs.start(kind, batch, work)

    def _may_finalize(self) -> bool:
        at_once = 1 if self._watch.disk_problem else self._settings.finalizes_max
        return self._jobs.count(FINALIZE) < at_once

    async def _apply_pauses(self, planned: Plan) -> None:
        for pause in planned.pauses:
            await self._store.batches.pause(pause.batch_id, reason=pause.reason, at=int(self._now()))
            log.warning("batch paused: %s", pause.reason, extra=self._extra(pause.batch_id))
        for batch_id in planned.resumes:
            await self._store.batches.resume(batch_id)
            log.info("batch resumed", extra=self._extra(batch_id))

    # --- what the actors report

    def _shard_ended(self, shard: HeldShard) -> None:
        self._watch.block(shard, None)
        self._disk_room.learn(shard)
        self._keeper.ended(shard, self._batches.get(shard.batch_id))

    def _shard_blocked(self, shard: HeldShard, reason: str | None) -> None:
        if self._watch.block(shard, reason):
            self.wake()

    def _engines_changed(self) -> None:
        if self._running and not self._ended.is_set():
            self._dispatcher.pump()
            self.wake()

    async def _give_up(self, kind: str, batch: BatchRecord, error: Exception) -> None:
        log.error("batch is given up because of %s: %r", kind, error, extra=self._extra(batch.id))
        first, _ = self._hopeless.get(batch.id, (error, False))
        self._hopeless[batch.id] = (first, kind == FAIL)
        self.wake()

    async def _pause_for_disk(self, batch: BatchRecord, error: DiskFull) -> None:
        await self._store.batches.pause(batch.id, reason=str(error), at=int(self._now()))

    async def _report(self) -> None:
        now = self._monotonic()
        ended = self._dispatcher.take_ended()
        self._measures.count(ended, seconds=now - self._counted_at, now=self._now())
        self._feeds.look(ended)
        await self._measures.look_at_sizes(
            [batch for batch in self._batches.values() if batch.status is BatchStatus.IN_PROGRESS]
        )
        self._counted_at = now
        self._dispatcher.show()
        self._feeds.show()
        await self._predict()
        await self._keeper.report()
        await self._pacing.report(list(self._batches.values()))
        await self._explain()
        await self._notifier.report()

    async def _predict(self) -> None:
        """Count anew what waits, by what has been learnt; look again at one batch of which much has."""
        if not self._settings.predict_lengths:
            return
        self._predictions.keep_up(self._leases.held.values(), self._batches)
        going = (batch for batch in self._batches.values() if batch.status is BatchStatus.IN_PROGRESS)
        due = next((batch for batch in going if self._predictions.is_due(batch)), None)
        if due is not None:
            await self._predictions.look(due, self._inputs)

    async def _explain(self) -> None:
        if self._looked is None:
            return
        batches, inflight = list(self._batches.values()), self._keeper.inflight()
        await self._explainer.report(batches, *self._looked, inflight=inflight, rescued=self._looked[0].rescued)

    async def _look_outside(self) -> None:
        if self._signal is not None and await self._signal.watch():
            self.wake()

    async def _measure_disk(self) -> None:
        if await self._watch.measure_disk():
            self.wake()

    def _extra(self, batch_id: str) -> dict[str, object]:
        batch = self._batches.get(batch_id)
        return {"tenant": None if batch is None else batch.tenant, "batch": batch_id}
