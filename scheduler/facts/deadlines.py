"""How much time a batch has, and how much of it its work still needs."""

from __future__ import annotations

import math

from store.records import BatchRecord, OnDeadline

LATE_AGAIN_SECONDS_MIN = 3600.0


def slack_seconds(batch: BatchRecord, *, now: float, seconds_per_line: float) -> float:
    """Deadline minus now minus the estimated seconds of work left; negative when the deadline cannot be met."""
    return batch.expires_at - now - lines_left(batch) * seconds_per_line


def lines_left(batch: BatchRecord) -> int:
    return max(0, batch.counts.total - batch.counts.completed - batch.counts.failed)


def has_passed(batch: BatchRecord, *, now: float) -> bool:
    return now >= batch.expires_at


def must_expire(batch: BatchRecord, *, now: float) -> bool:
    return batch.on_deadline is OnDeadline.EXPIRE and has_passed(batch, now=now)


def is_late(batch: BatchRecord, *, now: float) -> bool:
    """Past its deadline, and to be done all the same."""
    return batch.on_deadline is OnDeadline.CONTINUE and has_passed(batch, now=now)


def newly_missed(batch: BatchRecord, *, now: float) -> bool:
    """Past a deadline that does not end the batch, and not yet noted on it."""
    return batch.deadline_missed_at is None and is_late(batch, now=now)


def due_at(batch: BatchRecord, *, now: float) -> float:
    """By when its work is wanted. A late batch is due again after as long as it had at first, so that it grows urgent
    once more however much is due before: nothing starves."""
    if not is_late(batch, now=now):
        return batch.expires_at
    span = max(LATE_AGAIN_SECONDS_MIN, batch.expires_at - batch.created_at)
    return batch.expires_at + span * max(1, math.ceil((now - batch.expires_at) / span))
