"""Keeps the engines full: the moment a request ends, the next one that fits starts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
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
from engine.slices import split
from scheduler import metrics
from scheduler.actors import isolation
from scheduler.actors.desk import Desk
from scheduler.actors.held import HeldShard, Line
from scheduler.actors.lane import Lane
from scheduler.actors.outcomes import Outcomes, Record
from scheduler.actors.slicing import divide
from scheduler.actors.waiting import Ended, Waiting
from scheduler.policy.allowance import Allowance
from scheduler.policy.packer import slice_size
from scheduler.policy.planner import ModelKey
from scheduler.settings import SchedulerSettings
from store.markers import reach


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
    ) -> None:
        self._registry = registry
        self._settings = settings
        self._on_low = on_low
        self._monotonic = monotonic
        self._waiting = Waiting(self.pump)
        self._outcomes = Outcomes(self._waiting, settings, record=record, monotonic=monotonic)
        self._desks: dict[str, Desk] = {}
        self._opening: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    def add(self, shard: HeldShard) -> None:
        self._waiting.add(shard)
        self.pump()

    def remove(self, shard: HeldShard) -> list[asyncio.Task[None]]:
        """Forget a shard and cancel what it has in flight; the tasks to wait for."""
        self._waiting.remove(shard)
        tasks = list(shard.tasks)
        for task in tasks:
            task.cancel()
        return tasks

    def rank(self, ranking: Sequence[str], low: Mapping[ModelKey, int]) -> None:
        self._waiting.rank(ranking, low)

    def take_ended(self) -> dict[ModelKey, Ended]:
        return self._waiting.take_ended()

    def show(self) -> None:
        for desk in self._desks.values():
            desk.show()

    def desk(self, engine: Engine) -> Desk:
        desk = self._desks.get(engine.name)
        if desk is None:
            desk = self._desks[engine.name] = Desk(engine, self._settings, monotonic=self._monotonic)
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
            if desk.isolation is not None:
                self._advance(desk)
        for lane in self._waiting:
            while (line := lane.peek()) is not None:
                if line.cost.requests > 1 and not line.whole and self._divide(lane, line):
                    continue
                desk_found = self._desk_for(lane, line)
                if desk_found is None:
                    break
                became_low = lane.take(line)
                self._start(line, desk_found)
                if became_low:
                    self._on_low()

    def _advance(self, desk: Desk) -> None:
        isolation.advance(
            desk,
            lambda: self._others_of(desk),
            self._start,
            now=self._monotonic(),
            patience_seconds=self._settings.isolation_patience_seconds,
        )

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
        return True

    def _desk_for(self, lane: Lane, line: Line) -> Desk | None:
        exclude: tuple[str, ...] = ()
        while True:
            engine = self._registry.pick(lane.key.id, lane.key.revision, exclude)
            if engine is None:
                return None
            desk = self.desk(engine)
            if desk.isolation is None and desk.has_room(line) and self._monotonic() >= desk.rest_until:
                return desk
            self._look_when_open(desk)
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
            self.pump()

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
            self._outcomes.answered(line, desk, result)
        finally:
            self._give_back(line, desk, incarnation, answered=answered, died=died)

    def _give_back(self, line: Line, desk: Desk, incarnation: int, *, answered: bool, died: bool) -> None:
        """Also for a task that was cancelled: it may be the last one that others of a death wait for."""
        dead = desk.give_back(line, incarnation, answered=answered, died=died)
        if dead:
            self._outcomes.died(dead, desk)
        self.pump()


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
