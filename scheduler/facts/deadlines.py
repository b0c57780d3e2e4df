"""How much time a batch has, and how much of it its work still needs."""

from __future__ import annotations

from store.records import BatchRecord, OnDeadline


def slack_seconds(batch: BatchRecord, *, now: float, seconds_per_line: float) -> float:
    """Deadline minus now minus the estimated seconds of work left; negative when the deadline cannot be met."""
    return batch.expires_at - now - lines_left(batch) * seconds_per_line


def lines_left(batch: BatchRecord) -> int:
    return max(0, batch.counts.total - batch.counts.completed - batch.counts.failed)


def has_passed(batch: BatchRecord, *, now: float) -> bool:
    return now >= batch.expires_at


def must_expire(batch: BatchRecord, *, now: float) -> bool:
    return batch.on_deadline is OnDeadline.EXPIRE and has_passed(batch, now=now)


def newly_missed(batch: BatchRecord, *, now: float) -> bool:
    """Past a deadline that does not end the batch, and not yet noted on it."""
    return batch.on_deadline is OnDeadline.CONTINUE and batch.deadline_missed_at is None and has_passed(batch, now=now)
