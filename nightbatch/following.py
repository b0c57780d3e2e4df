"""Watching a batch until it ends. The server may go away meanwhile: a batch outlives a restart, and so does a watch."""

from __future__ import annotations

import time
from collections.abc import Callable

from openai.types import Batch

from nightbatch.client import ClientError

TERMINAL = frozenset({"completed", "failed", "expired", "cancelled"})
POLL_SECONDS_FIRST = 0.05
"""A small batch on an idle engine is done within a second."""
POLL_SECONDS_MOVING = 0.25
"""The most between two looks at a batch that goes on."""
POLL_SECONDS_MAX = 5.0
POLL_GROWTH = 1.3
OUTAGE_SECONDS_MAX = 600.0
"""A server that has not answered for this long is given up on; the batch is not."""

OnBatch = Callable[[Batch | None, str], None]
"""Told the batch as last seen and a note about it."""


def follow(
    fetch: Callable[[str], Batch],
    batch: Batch,
    report: OnBatch,
    *,
    sleep: Callable[[float], None] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
) -> Batch:
    """The batch in its final state; `fetch` is `Client.batch`.

    Raises ClientError when the server stays away or no longer knows the batch.
    """
    pause = POLL_SECONDS_FIRST
    heard_at = monotonic()
    while True:
        report(batch, note_of(batch))
        if batch.status in TERMINAL:
            return batch
        sleep(pause)
        try:
            seen = fetch(batch.id)
        except ClientError as error:
            if not (error.unreachable or (error.status_code or 0) >= 500):
                raise
            away = monotonic() - heard_at
            if away > OUTAGE_SECONDS_MAX:
                raise
            report(batch, f"the server does not answer, asking again ({away:.0f} s)")
            pause = POLL_SECONDS_MAX
            continue
        heard_at = monotonic()
        moved = seen.status != batch.status or done(seen) != done(batch)
        pause = min(pause * POLL_GROWTH, POLL_SECONDS_MOVING if moved else POLL_SECONDS_MAX)
        batch = seen


def done(batch: Batch) -> int:
    counts = batch.request_counts
    return counts.completed + counts.failed if counts else 0


def total(batch: Batch) -> int:
    return batch.request_counts.total if batch.request_counts else 0


def note_of(batch: Batch) -> str:
    """`in_progress  120/200, 3 failed`, or why it stands still."""
    note = str(batch.status)
    if total(batch):
        note += f"  {done(batch)}/{total(batch)}"
    if batch.request_counts and batch.request_counts.failed:
        note += f", {batch.request_counts.failed} failed"
    if reason := pause_reason(batch):
        note += f"  paused: {reason}"
    elif speed := speed_of(batch):
        note += f"  {speed}"
    return note


def speed_of(batch: Batch) -> str | None:
    """`22.3 lines/s, 365 tok/s` of the last minute; None where the server does not say."""
    lines_per_s, tokens_per_s = getattr(batch, "lines_per_s", None), getattr(batch, "tokens_per_s", None)
    if lines_per_s is None or batch.status in TERMINAL:
        return None
    return f"{lines_per_s:,.1f} lines/s" + (f", {tokens_per_s:,.0f} tok/s" if tokens_per_s else "")


def warnings_of(batch: Batch) -> list[str]:
    """What speaks against its deadline. A field of Nightbatch's own, as the next."""
    warnings = getattr(batch, "warnings", None) or []
    return [f"warning: {warning['message']}" for warning in warnings]


def pause_reason(batch: Batch) -> str | None:
    """Why a batch waits. A field of Nightbatch's own: other servers do not have it."""
    reason = getattr(batch, "pause_reason", None)
    return str(reason) if reason and batch.status not in TERMINAL else None
