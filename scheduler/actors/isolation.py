"""Runs suspects of engine deaths in groups with nothing else in flight on their engine (rules of policy.blame)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from engine.protocol import EngineState
from scheduler.actors.desk import Desk, Isolation
from scheduler.actors.held import Line


def died(desk: Desk, groups: Sequence[list[Line]]) -> None:
    """The engine died and these groups are to run alone, before any group that waits already.

    A running group ends with the death; those of its lines that had not started yet are a group again.
    """
    isolation = desk.isolation
    if isolation is None:
        if not groups:
            return
        isolation = desk.isolation = Isolation()
    rest = list(isolation.waiting)
    isolation.waiting.clear()
    isolation.running = False
    for group in reversed([*groups, *([rest] if rest else [])]):
        isolation.groups.appendleft(group)


def advance(
    desk: Desk,
    others: Callable[[], Iterable[Desk]],
    start: Callable[[Line, Desk], None],
    *,
    now: float,
    patience_seconds: float,
) -> None:
    """Start what may start: a group when the engine is empty, more lines of the running group as they fit.

    Ends the isolation when nothing is left of it. The groups move to another engine only when theirs has been gone for
    `patience_seconds`: a death is likely, and should not visit one engine after another.
    """
    isolation = desk.isolation
    if isolation is None:
        return
    is_ready = desk.engine.status().state is EngineState.READY
    if is_ready:
        isolation.gone_since = None
    elif isolation.gone_since is None:
        isolation.gone_since = now
    elif now - isolation.gone_since >= patience_seconds and desk.inflight.lines == 0:
        _move(desk, others())
        return
    if desk.inflight.lines == 0 and not isolation.waiting:
        isolation.running = False
        while isolation.groups and not isolation.running:
            lines = [line for line in isolation.groups.popleft() if not line.is_gone]
            isolation.waiting.extend(lines)
            isolation.running = bool(lines)
        if isolation.is_over:
            desk.isolation = None
            return
    if not is_ready:
        return
    while isolation.waiting and desk.has_room(isolation.waiting[0]):
        line = isolation.waiting.popleft()
        if not line.is_gone:
            start(line, desk)


def _move(desk: Desk, others: Iterable[Desk]) -> None:
    isolation = desk.isolation
    assert isolation is not None
    groups = deque(group for group in [list(isolation.waiting), *isolation.groups] if group)
    wanted = {line.shard.model for group in groups for line in group}
    for other in others:
        served = {(model.id, model.revision) for model in other.engine.models()}
        ready = other.engine.status().state is EngineState.READY
        if ready and other.isolation is None and all((key.id, key.revision) in served for key in wanted):
            other.isolation = Isolation(groups=groups)
            desk.isolation = None
            return
