"""Keeps the engines full: the moment a request ends, the next one that fits starts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

from engine.protocol import (
    Engine,
    EngineError,
    EngineOverloaded,
    EngineRequest,
    EngineResult,
    EngineUnavailable,
)
from engine.registry import Registry
from engine.selection import home_of
from engine.slices import split
from scheduler import metrics
from scheduler.actors import isolation
from scheduler.actors.desk import Desk
from scheduler.actors.held import HeldShard, Line
from scheduler.actors.lane import Lane
from scheduler.actors.outcomes import Outcomes, Record
from scheduler.actors.predictions import Predictions
from scheduler.actors.slicing import divide
from scheduler.actors.twins import Twins
from scheduler.actors.waiting import Ended, Waiting
from scheduler.policy.allowance import Allowance
from scheduler.policy.packer import slice_size
from scheduler.policy.planner import ModelKey
from scheduler.settings import SchedulerSettings
from store.markers import reach
from store.records import KeptAnswer


class Dispatcher:
    """Runs the lines of all shards that are held. `record` takes each result; `on_low` asks for more shards.

    All methods but `drain` are synchronous: between two awaits every line is in exactly one place.
    """

    def __init__(
        self,
        registry: Registry,
        settings: SchedulerSettings,
        *,
        record: Record,
        on_low: Callable[[], None],
        monotonic: Callable[[], float],
        predictions: Predictions | None = None,
    ) -> None:
        """`predictions` None: lines cost the most that they may."""
        self._predictions = predictions
        self._registry = registry
        self._settings = settings
        self._on_low = on_low
        self._monotonic = monotonic
        self._waiting = Waiting(self.pump)
        self._twins = Twins(answer_bytes_max=settings.shared_answer_bytes_max)
        self._outcomes = Outcomes(self._waiting, self._twins, settings, record=record, monotonic=monotonic)
        self._desks: dict[str, Desk] = {}
        self._opening: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._pump_is_due = False
        self._stopping = False

    def add(self, shard: HeldShard) -> None:
        if self._predictions is not None:
            self._predictions.cost(shard)
        self._waiting.add(shard)
        self.pump()

    def fill(self, line: Line, answer: KeptAnswer | None) -> None:
        """A line that the store had an answer for gets it, or waits for an engine if it is gone. Pump afterwards."""
        if answer is None:
            self._waiting.put_back(line)
        else:
            self._outcomes.reused(line, answer, "store")

    def remove(self, shard: HeldShard) -> list[asyncio.Task[None]]:
        """Forget a shard and cancel what it has in flight; the tasks to wait for."""
        self._waiting.remove(shard)
        tasks = list(shard.tasks)
        for task in tasks:
            task.cancel()
        freed = self._twins.removed(shard)
        if freed:
            self._waiting.put_back_all(freed)
            self._pump_soon()
        return tasks

    def rank(self, ranking: Sequence[str], low: Mapping[ModelKey, int], hurried: Collection[str] = ()) -> None:
        self._waiting.rank(ranking, low, hurried)

    def take_ended(self) -> dict[ModelKey, Ended]:
        return self._waiting.take_ended()

    def show(self) -> None:
        for desk in self._desks.values():
            desk.show()

    def desk(self, engine: Engine) -> Desk:
        desk = self._desks.get(engine.name)
        if desk is None:
            desk = self._desks[engine.name] = Desk(engine, self._settings, monotonic=self._monotonic)
            desk.look()
        return desk

    def allow(self, desk: Desk, allowance: Allowance) -> None:
        """What the engine may be given from now on. What is far above it is taken back and waits anew."""
        if allowance == desk.gate.allowance:
            return
        desk.gate.allowance = allowance
        metrics.LINES_RETRIED.labels("online").inc(desk.recall())
        self.pump()

    async def drain(self, seconds: float) -> None:
        """Start nothing more; wait for what is in flight, then cancel the rest."""
        self._stopping = True
        self._waiting.close()
        if self._tasks and seconds > 0:
            await asyncio.wait(self._tasks, timeout=seconds)
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def pump(self) -> None:
        """Start everything that fits now."""
        if self._stopping:
            return
        for desk in list(self._desks.values()):
            desk.look()
            if desk.isolation is not None:
                self._advance(desk)
        for lane in self._waiting:
            only = self._only_desk(lane)
            while (line := lane.peek()) is not None:
                if line.reuse_key is not None and self._shares(lane, line):
                    continue
                if line.cost.requests > 1 and not line.whole and self._divide(lane, line):
                    continue
                desk_found = self._desk_for(lane, line) if only is None else self._if_free(only, line)
                if desk_found is None:
                    break
                other = self._at_home(lane, line, desk_found) if only is None else None
                if other is None:
                    became_low = lane.take(line)
                else:
                    became_low, line = lane.take_out(other), other
                self._start(line, desk_found)
                if became_low:
                    self._on_low()

    def _at_home(self, lane: Lane, line: Line, desk: Desk) -> Line | None:
        """Where the next line's prefix belongs to another engine, a line of its batch that belongs to this one."""
        if not line.cost.prefix_tokens:
            return None
        names = [engine.name for engine in self._registry.candidates(lane.key.id, lane.key.revision)]
        name = desk.engine.name
        if home_of(line.cost.prefix, names) == name:
            return None
        found = lane.find(line.shard.batch_id, lambda prefix: home_of(prefix, names) == name)
        return found if found is not None and desk.has_room(found) else None

    def _pump_soon(self) -> None:
        """Once for all requests that end in one turn of the event loop."""
        if not self._pump_is_due:
            self._pump_is_due = True
            asyncio.get_running_loop().call_soon(self._pump_now)

    def _pump_now(self) -> None:
        self._pump_is_due = False
        self.pump()

    def _only_desk(self, lane: Lane) -> Desk | None:
        """Where there is nothing to choose, it is known for all lines of a lane."""
        engines = self._registry.candidates(lane.key.id, lane.key.revision) if lane.waiting else ()
        return self.desk(engines[0]) if len(engines) == 1 else None

    def _if_free(self, desk: Desk, line: Line) -> Desk | None:
        if desk.isolation is None and desk.has_room(line) and self._monotonic() >= desk.rest_until:
            return desk
        self._look_when_open(desk)
        return None

    def _advance(self, desk: Desk) -> None:
        isolation.advance(
            desk,
            lambda: self._others_of(desk),
            self._start,
            now=self._monotonic(),
            patience_seconds=self._settings.isolation_patience_seconds,
        )

    def _shares(self, lane: Lane, line: Line) -> bool:
        """The line at the front needs no engine: a twin has its answer, or is about to get it."""
        answer = self._twins.answer(line)
        if answer is None and not self._twins.park(line):
            return False
        became_low = lane.take(line)
        if answer is not None:
            self._outcomes.reused(line, answer, "memory")
        if became_low:
            self._on_low()
        return True

    def _divide(self, lane: Lane, line: Line) -> bool:
        """Put slices in the place of a line that is too large for the engines that could take it now."""
        desks = [self.desk(engine) for engine in self._registry.candidates(lane.key.id, lane.key.revision)]
        if not desks:
            return False
        size = min(
            slice_size(desk.budget(), line.cost, sub_requests_max=desk.slice_sub_requests_max()) for desk in desks
        )
        slices = split(line.shard.endpoint, line.body, size) if size < line.cost.requests else None
        if slices is None:
            line.whole = True
            return False
        lane.divide(line, divide(line, slices))
        self._twins.departed(line)
        return True

    def _desk_for(self, lane: Lane, line: Line) -> Desk | None:
        exclude: tuple[str, ...] = ()
        prefix = line.cost.prefix if line.cost.prefix_tokens else 0
        while True:
            engine = self._registry.pick(lane.key.id, lane.key.revision, exclude, prefix=prefix)
            if engine is None:
                return None
            desk = self._if_free(self.desk(engine), line)
            if desk is not None:
                return desk
            exclude = (*exclude, engine.name)

    def _look_when_open(self, desk: Desk) -> None:
        """One timer per desk: it opens by the clock, and no request of it need come back then."""
        seconds = desk.closed_seconds()
        if seconds > 0 and desk.engine.name not in self._opening:
            self._opening.add(desk.engine.name)
            self._waiting.look_again_in(seconds, before=lambda: self._opening.discard(desk.engine.name))

    def _others_of(self, desk: Desk) -> list[Desk]:
        return [self.desk(engine) for engine in self._registry.engines() if engine is not desk.engine]

    def _start(self, line: Line, desk: Desk) -> None:
        line.sent += 1
        if line.reuse_key is not None:
            self._twins.departed(line)
        incarnation = desk.take(line)
        task = asyncio.create_task(self._run(line, desk, incarnation))
        self._tasks.add(task)
        desk.departed(task, line)
        line.shard.tasks[task] = line
        task.add_done_callback(partial(self._ended, line, desk, incarnation, line.sent))

    def _ended(self, line: Line, desk: Desk, incarnation: int, sent: int, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        line.shard.tasks.pop(task, None)
        was_recalled = desk.left(task)
        if line.begun < sent:  # cancelled before its first step, so that `_run` has given nothing back
            self._give_back(line, desk, incarnation, answered=False, died=False)
        if was_recalled:
            self._waiting.put_back(line)
            self._pump_soon()

    async def _run(self, line: Line, desk: Desk, incarnation: int) -> None:
        line.begun = line.sent
        answered = died = False
        started = self._monotonic()
        try:
            result = await _ask(line, desk.engine)
        except EngineOverloaded as error:
            self._outcomes.overloaded(line, desk, error)
        except EngineUnavailable as error:
            died = error.died
            if not died:
                self._outcomes.refused(line, desk, error.reason)
        except EngineError as error:
            self._outcomes.refused(line, desk, str(error))
        except Exception as error:  # noqa: BLE001 (an engine's mistake costs its line; it is logged there)
            self._outcomes.broken(line, desk, error)
        else:
            answered = True
            desk.learn(line, seconds=self._monotonic() - started, output_tokens=result.usage.completion_tokens)
            if self._predictions is not None:
                self._predictions.learn(line, result)
            self._outcomes.answered(line, desk, result)
        finally:
            self._give_back(line, desk, incarnation, answered=answered, died=died)

    def _give_back(self, line: Line, desk: Desk, incarnation: int, *, answered: bool, died: bool) -> None:
        """Also for a task that was cancelled: it may be the last one that others of a death wait for."""
        dead = desk.give_back(line, incarnation, answered=answered, died=died)
        if line.reuse_key is not None:
            self._waiting.put_back_all(self._twins.landed(line))
        if dead:
            self._outcomes.died(dead, desk)
        self._pump_soon()


async def _ask(line: Line, engine: Engine) -> EngineResult:
    limit = engine.limits().body_bytes_max
    body = line.request_body()
    if len(body) > limit:
        return _too_large(len(body), limit)
    shard = line.shard
    request = EngineRequest(
        # Unique over restarts of this process too: an engine elsewhere may not have forgotten an earlier try yet.
        request_id=f"{shard.batch_id}-{line.request_name}-{shard.lease.generation}.{line.sent}",
        model=shard.model.id,
        endpoint=shard.endpoint,
        body=body,
        sub_requests=line.cost.requests,
    )
    reach("request.started")
    result = await engine.generate(request)
    reach("request.answered")
    return result


def _too_large(body_bytes: int, limit: int) -> EngineResult:
    message = f"The body of this request has {body_bytes:,} bytes; the engine takes at most {limit:,}."
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": "request_too_large"}
    return EngineResult(413, json.dumps({"error": error}).encode())
