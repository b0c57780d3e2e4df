"""Between rows and records: the one place that knows how a record lies in its columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import RowMapping

from store.records import (
    BatchRecord,
    BatchStatus,
    FileRecord,
    InputSummary,
    LineError,
    NewBatch,
    NewShard,
    OnDeadline,
    OnInvalidLine,
    PinnedModel,
    RequestCounts,
    Reuse,
    SegmentRef,
    ShardRecord,
    ShardState,
    TokenUsage,
)

_summary = msgspec.json.Decoder(InputSummary)
_errors = msgspec.json.Decoder(tuple[LineError, ...])
_models = msgspec.json.Decoder(dict[str, PinnedModel])
_metadata = msgspec.json.Decoder(dict[str, str])


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode()


def file_values(record: FileRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "tenant": record.tenant,
        "purpose": record.purpose,
        "filename": record.filename,
        "bytes": record.bytes,
        "created_at": record.created_at,
        "expires_at": record.expires_at,
        "blob": record.blob,
        "summary": None if record.summary is None else _text(record.summary),
    }


def file_record(row: RowMapping) -> FileRecord:
    return FileRecord(
        id=row["id"],
        tenant=row["tenant"],
        purpose=row["purpose"],
        filename=row["filename"],
        bytes=row["bytes"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        blob=row["blob"],
        summary=None if row["summary"] is None else _summary.decode(row["summary"]),
    )


def batch_values(new: NewBatch) -> dict[str, Any]:
    return {
        "id": new.id,
        "tenant": new.tenant,
        "endpoint": new.endpoint,
        "input_file_id": new.input_file_id,
        "reading_file_id": new.input_file_id,
        "completion_window": new.completion_window,
        "status": BatchStatus.VALIDATING.value,
        "created_at": new.created_at,
        "expires_at": new.expires_at,
        "on_deadline": new.on_deadline.value,
        "models": _text(dict(new.models)),
        "metadata": None if new.metadata is None else _text(dict(new.metadata)),
        "output_expires_after_seconds": new.output_expires_after_seconds,
        "on_invalid_line": new.on_invalid_line.value,
        "idempotency_key": new.idempotency_key,
        "request_digest": new.request_digest,
        "parent_batch_id": new.parent_batch_id,
        "deadline_at": new.deadline_at,
        "reuse": new.reuse.value,
    }


def batch_record(row: RowMapping) -> BatchRecord:
    return BatchRecord(
        id=row["id"],
        tenant=row["tenant"],
        endpoint=row["endpoint"],
        input_file_id=row["input_file_id"],
        completion_window=row["completion_window"],
        status=BatchStatus(row["status"]),
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        on_deadline=OnDeadline(row["on_deadline"]),
        models=_models.decode(row["models"]),
        metadata=None if row["metadata"] is None else _metadata.decode(row["metadata"]),
        output_expires_after_seconds=row["output_expires_after_seconds"],
        in_progress_at=row["in_progress_at"],
        finalizing_at=row["finalizing_at"],
        completed_at=row["completed_at"],
        failed_at=row["failed_at"],
        expired_at=row["expired_at"],
        cancelling_at=row["cancelling_at"],
        cancelled_at=row["cancelled_at"],
        deadline_missed_at=row["deadline_missed_at"],
        paused_at=row["paused_at"],
        pause_reason=row["pause_reason"],
        counts=RequestCounts(row["total"], row["completed"], row["failed"], row["reused"]),
        usage=_usage(row),
        errors=() if row["errors"] is None else _errors.decode(row["errors"]),
        errors_total=row["errors_total"],
        output_file_id=row["output_file_id"],
        error_file_id=row["error_file_id"],
        on_invalid_line=OnInvalidLine(row["on_invalid_line"]),
        invalid_lines=row["invalid_lines"],
        idempotency_key=row["idempotency_key"],
        request_digest=row["request_digest"],
        parent_batch_id=row["parent_batch_id"],
        held_at=row["held_at"],
        eta_at=row["eta_at"],
        lines_per_s=row["lines_per_s"],
        tokens_per_s=row["tokens_per_s"],
        quality=row["quality"],
        deadline_at=row["deadline_at"],
        warnings=row["warnings"],
        schedule=row["schedule"],
        reuse=Reuse(row["reuse"]),
    )


def error_values(errors: Sequence[LineError], errors_total: int) -> dict[str, Any]:
    return {"errors": _text(list(errors)) if errors else None, "errors_total": errors_total}


def usage_values(usage: TokenUsage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens,
        "cached_tokens": usage.cached_tokens,
        "output_tokens": usage.output_tokens,
    }


def shard_values(new: NewShard, *, batch_id: str, tenant: str) -> dict[str, Any]:
    return {
        "batch_id": batch_id,
        "shard_no": new.shard_no,
        "tenant": tenant,
        "start": new.start,
        "stop": new.stop,
        "model": new.model,
        "revision": new.revision,
        "state": ShardState.READY.value,
    }


def shard_record(row: RowMapping) -> ShardRecord:
    return ShardRecord(
        batch_id=row["batch_id"],
        shard_no=row["shard_no"],
        start=row["start"],
        stop=row["stop"],
        model=row["model"],
        revision=row["revision"],
        state=ShardState(row["state"]),
        generation=row["generation"],
        holder=row["holder"],
        lease_expires_at=row["lease_expires_at"],
        completed=row["completed"],
        failed=row["failed"],
        usage=_usage(row),
        quality=row["quality"],
    )


def segment_ref(row: RowMapping) -> SegmentRef:
    return SegmentRef(row["batch_id"], row["shard_no"], row["generation"], row["valid_bytes"])


def _usage(row: Mapping[str, Any] | RowMapping) -> TokenUsage:
    return TokenUsage(row["input_tokens"], row["cached_tokens"], row["output_tokens"])
