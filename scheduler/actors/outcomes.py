"""What the end of a request means for its line: a result, another try, or a verdict about a death."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from engine.merging import Unmergeable
from engine.protocol import EngineOverloaded, EngineResult, Usage
from scheduler import metrics
from scheduler.actors import isolation
from scheduler.actors.desk import Desk
from scheduler.actors.held import HeldShard, Line
from scheduler.actors.slicing import Division, Ending, Slice
from scheduler.actors.twins import Twins
from scheduler.actors.waiting import Waiting
from scheduler.facts import result_lines
from scheduler.policy.blame import BlameLedger
from scheduler.settings import SchedulerSettings
from store.records import KeptAnswer, LineResult, TokenUsage

log = logging.getLogger(__name__)

Record = Callable[[HeldShard, LineResult], None]


class Outcomes:
    def __init__(
        self,
        waiting: Waiting,
        twins: Twins,
        settings: SchedulerSettings,
        *,
        record: Record,
        monotonic: Callable[[], float],
    ) -> None:
        self._waiting = waiting
        self._twins = twins
        self._settings = settings
        self._record = record
        self._monotonic = monotonic
        self._ledger: BlameLedger[tuple[str, int]] = BlameLedger()

    def answered(self, line: Line, desk: Desk, result: EngineResult) -> None:
        desk.answered()
        if result.status_code >= 500:
            self._bad_answer(line, result, f"status {result.status_code}")
        else:
            self._end(line, result)

    def reused(self, line: Line, answer: KeptAnswer, where: str) -> None:
        """The line gets what an identical one got: no engine worked for it, so it counts no tokens and no time."""
        if line.is_gone:
            return
        metrics.LINES_REUSED.labels(where).inc()
        self._ledger.finished(line.key)
        text = result_lines.answered_line(
            line.shard.batch_id,
            line.line_no,
            line.custom_id,
            status_code=answer.status_code,
            body=answer.body,
            reused=True,
        )
        self._record(line.shard, LineResult(line.line_no, True, text, TokenUsage(), line.body, reused=True))

    def broken(self, line: Line, desk: Desk, error: Exception) -> None:
        """The engine raised what it may not."""
        log.error("engine %s raised what it may not", desk.engine.name, exc_info=error, extra=_extra(line, desk))
        self._bad_answer(line, None, repr(error))

    def overloaded(self, line: Line, desk: Desk, error: EngineOverloaded) -> None:
        metrics.LINES_RETRIED.labels("overloaded").inc()
        wait = desk.refused(now=self._monotonic(), retry_after_seconds=error.retry_after_seconds)
        self._waiting.put_back(line)
        self._waiting.look_again_in(wait)

    def refused(self, line: Line, desk: Desk, reason: str) -> None:
        """The engine is not there, or gave half an answer: back to the queue, however often."""
        log.debug("line goes back to the queue: %s", reason, extra=_extra(line, desk))
        metrics.LINES_RETRIED.labels("unavailable").inc()
        wait = desk.refused(now=self._monotonic())
        line.refusals += 1
        again_in = 0.0 if line.refusals == 1 else self._settings.backoff_seconds(line.refusals - 1)
        self._waiting.put_back_in(line, again_in)
        self._waiting.look_again_in(wait)

    def died(self, dead: list[Line], desk: Desk) -> None:
        """An engine died, and these are all the lines that were in flight on it."""
        metrics.ENGINE_DEATHS.labels(desk.engine.name).inc()
        metrics.LINES_RETRIED.labels("engine_died").inc(len(dead))
        isolated = desk.isolation is not None and desk.isolation.running
        lines: dict[tuple[str, int], list[Line]] = {}  # a line may have several slices in flight
        for line in dead:
            if not line.is_gone:
                lines.setdefault(line.key, []).append(line)
        verdict = self._ledger.died(list(lines), isolated=isolated)
        log.warning(
            "engine %s died with %d lines in flight: %d back to the queue, %d to run apart in %d groups, %d blamed",
            desk.engine.name,
            len(lines),
            len(verdict.requeue),
            sum(map(len, verdict.groups)),
            len(verdict.groups),
            len(verdict.blamed),
            extra={"engine": desk.engine.name},
        )
        for key in reversed(verdict.requeue):
            for line in reversed(lines[key]):
                self._waiting.put_back(line)
        for key in verdict.blamed:
            metrics.LINES_BLAMED.inc()
            self._end_at_once(lines[key][0], result_lines.crashed(self._ledger.alone_deaths(key)))
        isolation.died(desk, [[line for key in group for line in lines[key]] for group in verdict.groups])

    def _bad_answer(self, line: Line, result: EngineResult | None, reason: str) -> None:
        line.bad_answers += 1
        if line.bad_answers < self._settings.answer_attempts_max:
            metrics.LINES_RETRIED.labels("bad_answer").inc()
            self._waiting.put_back_in(line, self._settings.backoff_seconds(line.bad_answers))
        elif result is None:
            message = f"The engine failed on this request: {reason}"
            self._end(line, result_lines.LineError(result_lines.INTERNAL_CODE, message))
        else:
            self._end(line, result)

    def _end(self, line: Line, ending: Ending) -> None:
        """A request has its answer: the line's own, or that of a slice of it."""
        if not isinstance(line, Slice):
            self._record_end(line, ending)
            return
        division = line.division
        needed = division.needed
        try:
            whole_ending = division.take(line.no, ending)
        except Unmergeable as error:
            log.warning(
                "line is sent again as one request: %s", error, extra=line.shard.log_extra() | {"line_no": line.line_no}
            )
            self._abandon(division)
            division.line.whole = True
            self._waiting.put_back_all(self._twins.landed(division.line))
            self._waiting.put_back(division.line)
            return
        if division.needed < needed:
            self._drop_gone(line.shard)
        if whole_ending is not None:
            self._record_end(division.line, whole_ending)

    def _end_at_once(self, line: Line, ending: Ending) -> None:
        """The line ends here, whatever slices of it are still out."""
        if isinstance(line, Slice):
            self._abandon(line.division)
            line = line.division.line
        self._record_end(line, ending)

    def _abandon(self, division: Division) -> None:
        division.abandon()
        self._drop_gone(division.line.shard)

    def _drop_gone(self, shard: HeldShard) -> None:
        self._waiting.drop_gone(shard)
        own = asyncio.current_task()
        for task, line in shard.tasks.items():
            if line.is_gone and task is not own:
                task.cancel()

    def _record_end(self, line: Line, ending: Ending) -> None:
        if isinstance(ending, EngineResult):
            answer = _shared(line, ending)
            self._finish(line, _answer(line, ending), succeeded=ending.ok, usage=ending.usage, keep=answer)
        else:
            answer = None
            text = result_lines.unanswered_line(line.shard.batch_id, line.line_no, line.custom_id, ending)
            self._finish(line, text, succeeded=False, usage=Usage())
        if line.reuse_key is not None:
            self._share(line, answer)

    def _share(self, line: Line, answer: KeptAnswer | None) -> None:
        """Its twins get the answer too. An error is not shared: they try for themselves."""
        if answer is None:
            self._waiting.put_back_all(self._twins.failed(line))
            return
        for twin in self._twins.answered(answer):
            self.reused(twin, answer, "memory")

    def _finish(
        self, line: Line, text: bytes, *, succeeded: bool, usage: Usage, keep: KeptAnswer | None = None
    ) -> None:
        self._waiting.count_ended(line)
        self._ledger.finished(line.key)
        tokens = TokenUsage(usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)
        self._record(line.shard, LineResult(line.line_no, succeeded, text, tokens, line.body, keep=keep))


def _answer(line: Line, result: EngineResult) -> bytes:
    return result_lines.answered_line(
        line.shard.batch_id, line.line_no, line.custom_id, status_code=result.status_code, body=result.body
    )


def _shared(line: Line, result: EngineResult) -> KeptAnswer | None:
    """The answer as others may have it; None for one that is the line's alone."""
    if line.reuse_key is None or not result.ok:
        return None
    return KeptAnswer(line.reuse_key, result.status_code, result.body)


def _extra(line: Line, desk: Desk) -> dict[str, object]:
    return {**line.shard.log_extra(), "line_no": line.line_no, "engine": desk.engine.name}
