"""Whether a batch must wait: a person paused it, or off-peak windows are to come that suffice for its deadline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from scheduler.facts.deadlines import lines_left
from scheduler.facts.windows import Calendar, may_wait
from scheduler.policy.planner import ModelKey
from store.records import HELD, BatchRecord, OnDeadline


@dataclass(frozen=True, slots=True)
class Hold:
    """`outside = "hold"`: what waits for `calendar`, and with how much to spare."""

    calendar: Calendar
    work_margin: float
    reserve_seconds: float


def waits(
    batches: Iterable[BatchRecord],
    hold: Hold | None,
    *,
    now: float,
    seconds_per_line: Mapping[ModelKey, float],
) -> dict[str, str]:
    """The batches that must not run now, each with the reason for people. `hold` None: any hour is as good."""
    found = {}
    for batch in batches:
        reason = held_reason(batch)
        if reason is None and hold is not None:
            reason = wait_reason(batch, hold, now=now, seconds_per_line=seconds_per_line)
        if reason is not None:
            found[batch.id] = reason
    return found


def held_reason(batch: BatchRecord) -> str | None:
    return None if batch.held_at is None else HELD


def wait_reason(
    batch: BatchRecord, hold: Hold, *, now: float, seconds_per_line: Mapping[ModelKey, float]
) -> str | None:
    """Why the batch does not run now, for people; None when it does.

    A batch that is late runs at once: waiting longer would only make it later. One that may be late (`continue`)
    is no exception: its deadline is still what it was asked for.
    """
    calendar = hold.calendar
    if calendar.is_always_open or calendar.open_at(now) is not None or now >= batch.expires_at:
        return None
    suffices = may_wait(
        calendar,
        now=now,
        deadline=batch.expires_at,
        work_seconds=_work_seconds(batch, seconds_per_line),
        margin=hold.work_margin,
        reserve_seconds=hold.reserve_seconds,
    )
    opens_at = calendar.next_opening(now)
    if not suffices or opens_at is None:
        return None
    name = calendar.intervals(opens_at, opens_at + 1)[0].name
    local = datetime.fromtimestamp(opens_at, calendar.zone)
    end = "expires" if batch.on_deadline is OnDeadline.EXPIRE else "is due"
    due = datetime.fromtimestamp(batch.expires_at, calendar.zone)
    return (
        f"Waits for the off-peak window '{name}', which opens at {local:%a %d %b %H:%M} ({calendar.zone}); the batch "
        f"{end} at {due:%a %d %b %H:%M}."
    )


def _work_seconds(batch: BatchRecord, seconds_per_line: Mapping[ModelKey, float]) -> float | None:
    """At the slowest measured rate of its models; None when one of them has none yet."""
    rates = [seconds_per_line.get(ModelKey(pin.id, pin.revision)) for pin in batch.models.values()]
    if not rates or any(rate is None for rate in rates):
        return None
    return lines_left(batch) * max(rate for rate in rates if rate is not None)
