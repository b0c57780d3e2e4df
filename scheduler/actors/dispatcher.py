"""Keeps the engines full: the moment a request ends, the next one that fits starts."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

from engine.protocol import (
    Engine,
    EngineError,
    EngineOverloaded,
    EngineRequest,
    EngineResult,
    EngineUnavailable,
    Usage,
)
from engine.registry import Registry
from scheduler import metrics
from scheduler.actors import isolation
from scheduler.actors.desk import Desk
from scheduler.actors.held import HeldShard, Line
from scheduler.actors.lane import Lane
from scheduler.facts import result_lines
from scheduler.policy.blame import BlameLedger
from scheduler.policy.planner import ModelKey
from scheduler.settings import SchedulerSettings
from store.markers import reach
from store.records import LineResult, TokenUsage

log = logging.getLogger(__name__)

Record = Callable[[HeldShard, LineResult], None]


class Dispatcher:
    """Holds the lines of all shards that are being run. `record` takes each result; `on_low` asks for more shards.

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
        self._record = record
        self._on_low = on_low
        self._monotonic = monotonic
        self._lanes: dict[ModelKey, Lane] = {}
        self._desks: dict[str, Desk] = {}
        self._ledger: BlameLedger[tuple[str, int]] = BlameLedger()
        self._place: dict[str, int] = {}
        self._low: Mapping[ModelKey, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: set[asyncio.TimerHandle] = set()
        self._stopping = False

    # --- shards come and go

    def add(self, shard: HeldShard) -> None:
        lane = self._lanes.setdefault(shard.model, Lane(shard.model))
        lane.add(shard)
        lane.low = self._low.get(shard.model, 1)
        lane.rank(self._place)

    def remove(self, shard: HeldShard) -> list[asyncio.Task[None]]:
        """Forget a shard and cancel what it has in flight; the tasks to wait for."""
        shard.leaving = True
        lane = self._lanes.get(shard.model)
        if lane is not None:
            lane.remove(shard)
        shard.waiting.clear()
        tasks = list(shard.tasks)
        for task in tasks:
            task.cancel()
        return tasks

    def rank(self, ranking: Sequence[str], low: Mapping[ModelKey, int]) -> None:
        """Batches by urgency, and for each model how few waiting lines are too few."""
        self._place = {batch_id: place for place, batch_id in enumerate(ranking)}
        self._low = low
        for lane in self._lanes.values():
            lane.rank(self._place)
            lane.low = low.get(lane.key, lane.low)

    def take_ended(self) -> dict[ModelKey, int]:
        """Lines that got a result since the last call, by model."""
        ended = {}
        for lane in self._lanes.values():
            ended[lane.key], lane.ended = lane.ended, 0
        return ended

    def show(self) -> None:
        for desk in self._desks.values():
            desk.show()

    async def drain(self, seconds: float) -> None:
        """Start nothing more; wait for what is in flight, then cancel the rest."""
        self._stopping = True
        for timer in self._timers:
            timer.cancel()
        if self._tasks and seconds > 0:
            await asyncio.wait(self._tasks, timeout=seconds)
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    # --- starting

    def pump(self) -> None:
        """Start everything that fits now."""
        if self._stopping:
            return
        for desk in list(self._desks.values()):
            if desk.isolation is not None:
                isolation.advance(desk, self._others_of(desk), self._start)
        for lane in list(self._lanes.values()):
            while (line := lane.peek()) is not None:
                desk_found = self._desk_for(lane, line)
                if desk_found is None:
                    break
                became_low = lane.take(line)
                self._start(line, desk_found)
                if became_low:
                    self._on_low()

    def _desk_for(self, lane: Lane, line: Line) -> Desk | None:
        exclude: tuple[str, ...] = ()
        while True:
            engine = self._registry.pick(lane.key.id, lane.key.revision, exclude)
            if engine is None:
                return None
            desk = self._desk(engine)
            if desk.isolation is None and desk.has_room(line) and self._monotonic() >= desk.rest_until:
                return desk
            exclude = (*exclude, engine.name)

    def _desk(self, engine: Engine) -> Desk:
        desk = self._desks.get(engine.name)
        if desk is None:
            desk = self._desks[engine.name] = Desk(engine, self._settings)
        return desk

    def _others_of(self, desk: Desk) -> Iterable[Desk]:
        return [self._desk(engine) for engine in self._registry.engines() if engine is not desk.engine]

    def _start(self, line: Line, desk: Desk) -> None:
        line.sent += 1
        incarnation = desk.take(line)
        task = asyncio.create_task(self._run(line, desk, incarnation))
        self._tasks.add(task)
        line.shard.tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(line.shard.tasks.discard)

    # --- ending

    async def _run(self, line: Line, desk: Desk, incarnation: int) -> None:
        died = False
        try:
            result = await self._ask(line, desk)
        except EngineOverloaded as error:
            self._overloaded(line, desk, error)
        except EngineUnavailable as error:
            died = error.died
            if not died:
                self._refused(line, desk, error.reason)
        except EngineError as error:
            self._refused(line, desk, str(error))
        except Exception as error:
            log.exception("engine %s raised what it may not", desk.engine.name, extra=self._extra(line, desk))
            self._bad_answer(line, None, repr(error))
        else:
            desk.answered()
            self._answered(line, result)
        finally:
            dead = desk.give_back(line, incarnation, died=died)
            if dead:
                self._judge(dead, desk)
            self.pump()

    async def _ask(self, line: Line, desk: Desk) -> EngineResult:
        # A repetition has an id of its own: the engine may not have forgotten the first one yet.
        suffix = f"-{line.sent}" if line.sent > 1 else ""
        request = EngineRequest(
            request_id=f"{line.shard.batch_id}-{line.line_no}{suffix}",
            model=line.shard.model.id,
            endpoint=line.shard.endpoint,
            body=line.body,
            sub_requests=line.cost.requests,
        )
        limit = desk.engine.limits().body_bytes_max
        if len(line.body) > limit:
            return _too_large(len(line.body), limit)
        reach("request.started")
        result = await desk.engine.generate(request)
        reach("request.answered")
        return result

    def _answered(self, line: Line, result: EngineResult) -> None:
        if result.status_code >= 500:
            self._bad_answer(line, result, f"status {result.status_code}")
            return
        self._finish(line, _answer(line, result), succeeded=result.ok, usage=result.usage)

    def _bad_answer(self, line: Line, result: EngineResult | None, reason: str) -> None:
        line.bad_answers += 1
        if line.bad_answers < self._settings.answer_attempts_max:
            metrics.LINES_RETRIED.labels("bad_answer").inc()
            self._later(line, self._settings.backoff_seconds(line.bad_answers))
            return
        if result is None:
            error = result_lines.LineError(result_lines.INTERNAL_CODE, f"The engine failed on this request: {reason}")
            self._fail(line, error)
        else:
            self._finish(line, _answer(line, result), succeeded=False, usage=result.usage)

    def _overloaded(self, line: Line, desk: Desk, error: EngineOverloaded) -> None:
        wait = desk.refused(now=self._monotonic(), retry_after_seconds=error.retry_after_seconds)
        metrics.LINES_RETRIED.labels("overloaded").inc()
        self._put_back(line)
        self._pump_in(wait)

    def _refused(self, line: Line, desk: Desk, reason: str) -> None:
        """The engine is not there, or gave half an answer: back to the queue, however often."""
        log.debug("line goes back to the queue: %s", reason, extra=self._extra(line, desk))
        wait = desk.refused(now=self._monotonic())
        metrics.LINES_RETRIED.labels("unavailable").inc()
        line.refusals += 1
        self._later(line, 0.0 if line.refusals == 1 else self._settings.backoff_seconds(line.refusals - 1))
        self._pump_in(wait)

    def _judge(self, dead: list[Line], desk: Desk) -> None:
        metrics.ENGINE_DEATHS.labels(desk.engine.name).inc()
        metrics.LINES_RETRIED.labels("engine_died").inc(len(dead))
        isolated = desk.isolation is not None and desk.isolation.running
        lines = {line.key: line for line in dead if not line.shard.is_gone}
        verdict = self._ledger.died(list(lines), isolated=isolated)
        log.warning(
            "engine %s died with %d lines in flight: %d back to the queue, %d to run alone in %d groups, %d blamed",
            desk.engine.name,
            len(lines),
            len(verdict.requeue),
            sum(map(len, verdict.groups)),
            len(verdict.groups),
            len(verdict.blamed),
            extra={"engine": desk.engine.name},
        )
        for key in reversed(verdict.requeue):
            self._put_back(lines[key])
        for key in verdict.blamed:
            metrics.LINES_BLAMED.inc()
            self._fail(lines[key], result_lines.crashed(self._ledger.alone_deaths(key)))
        isolation.died(desk, [[lines[key] for key in group] for group in verdict.groups])

    def _fail(self, line: Line, error: result_lines.LineError) -> None:
        shard = line.shard
        text = result_lines.unanswered_line(shard.batch_id, line.line_no, line.custom_id, error)
        self._finish(line, text, succeeded=False, usage=Usage())

    def _finish(self, line: Line, text: bytes, *, succeeded: bool, usage: Usage) -> None:
        lane = self._lanes.get(line.shard.model)
        if lane is not None:
            lane.ended += 1
        self._ledger.finished(line.key)
        tokens = TokenUsage(usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)
        self._record(line.shard, LineResult(line.line_no, succeeded, text, tokens))

    # --- waiting again

    def _put_back(self, line: Line) -> None:
        lane = self._lanes.get(line.shard.model)
        if lane is not None and not line.shard.is_gone:
            lane.put_back(line)

    def _later(self, line: Line, seconds: float) -> None:
        if seconds <= 0:
            self._put_back(line)
            return

        def again() -> None:
            self._put_back(line)
            self.pump()

        self._call_in(seconds, again)

    def _pump_in(self, seconds: float) -> None:
        self._call_in(seconds, self.pump)

    def _call_in(self, seconds: float, callback: Callable[[], None]) -> None:
        def run() -> None:
            self._timers.discard(handle)
            callback()

        handle = asyncio.get_running_loop().call_later(seconds, run)
        self._timers.add(handle)

    def _extra(self, line: Line, desk: Desk) -> dict[str, object]:
        return {**line.shard.log_extra(), "line_no": line.line_no, "engine": desk.engine.name}


def _answer(line: Line, result: EngineResult) -> bytes:
    return result_lines.answered_line(
        line.shard.batch_id, line.line_no, line.custom_id, status_code=result.status_code, body=result.body
    )


def _too_large(body_bytes: int, limit: int) -> EngineResult:
    message = f"The body of this request has {body_bytes:,} bytes; the engine takes at most {limit:,}."
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": "request_too_large"}
    return EngineResult(413, json.dumps({"error": error}).encode())
