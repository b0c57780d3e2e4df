"""The API files that a batch leaves behind: their names, purpose and life."""

from __future__ import annotations

from store.records import BatchRecord, FileRecord


def result_file(
    batch: BatchRecord, *, blob: str, size: int, kind: str, now: int, retention_seconds: int | None
) -> FileRecord:
    """`kind` is `output` or `error`. What the batch says of expiry counts before the server's retention."""
    seconds = batch.output_expires_after_seconds or retention_seconds
    return FileRecord(
        id=f"file-{blob}",
        tenant=batch.tenant,
        purpose="batch_output",
        filename=f"{batch.id}_{kind}.jsonl",
        bytes=size,
        created_at=now,
        expires_at=None if seconds is None else now + seconds,
        blob=blob,
    )
