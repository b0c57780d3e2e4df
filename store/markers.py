"""Named points of a request's walk, where a test may stop or kill the process.

In production a marker is one comparison with None. `install` is called once by the composition root when the
environment names a marker (`NIGHTBATCH_KILL_AT=append.synced:3` kills at the third passing), and by tests.
"""

from __future__ import annotations

from collections.abc import Callable

_hook: Callable[[str], None] | None = None


def install(hook: Callable[[str], None] | None) -> None:
    """Replace the hook; None removes it. The hook runs on whatever thread reaches the marker."""
    global _hook  # noqa: PLW0603 (one hook for a process is the point)
    _hook = hook


def reach(name: str) -> None:
    """Say that the walk has come to `name` (listed in MARKERS)."""
    if _hook is not None:
        _hook(name)


MARKERS = (
    "upload.received",  # every byte is in the temp blob, nothing fsynced
    "upload.indexed",  # blob and index are durable under their names, no file row
    "upload.committed",  # file row committed, not yet answered
    "batch.created",  # batch row committed, not yet answered
    "intake.ordered",  # execution order is durable, no shard rows
    "intake.admitted",  # in_progress and shard rows committed
    "shard.leased",  # a lease was taken, nothing read
    "request.started",  # a request went to the engine
    "request.answered",  # its answer came back, nothing written
    "append.written",  # a part is in the segment file, not fsynced
    "append.synced",  # the part is durable
    "shard.sealed",  # the seal is committed
    "finalize.started",  # status is finalizing, no output bytes
    "finalize.composed",  # output and error blobs are durable, no rows
    "finalize.committed",  # rows, counts and final status committed, segments still there
    "event.sent",  # a webhook or command has taken an event, the row does not say so yet
)
