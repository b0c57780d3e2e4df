"""The objects of OpenAI's API as they go out: every key present, explicit nulls."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import Response
from pydantic import BaseModel, ConfigDict, TypeAdapter

from engine.protocol import ModelInfo
from store.quality import summary_of
from store.records import BatchRecord, FileRecord

BATCH_ERRORS_BYTES_MAX = 512 * 1024
LISTED_ERRORS_BYTES_MAX = 4 * 1024
"""Of long messages fewer are shown: a batch, and a list of a hundred, stays below a megabyte. The total stays true."""


class ErrorBody(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorEnvelope(BaseModel):
    error: ErrorBody


class FileObject(BaseModel):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"
    status_details: str | None = None

    @classmethod
    def of(cls, record: FileRecord) -> FileObject:
        return cls(
            id=record.id,
            bytes=record.bytes,
            created_at=record.created_at,
            expires_at=record.expires_at,
            filename=record.filename,
            purpose=record.purpose,
        )


class FileList(BaseModel):
    object: Literal["list"] = "list"
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(BaseModel):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class UploadObject(BaseModel):
    id: str
    object: Literal["upload"] = "upload"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["pending", "completed", "cancelled", "expired"]
    file: FileObject | None


class UploadPartObject(BaseModel):
    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str


class BatchError(BaseModel):
    code: str
    message: str
    param: str | None
    line: int | None


class BatchErrors(BaseModel):
    """`total` counts all errors; `data` holds the first of them."""

    object: Literal["list"] = "list"
    data: list[BatchError]
    total: int


class NumberedError(BatchError):
    """`id` is a cursor; `custom_id` as far as the line could be read."""

    id: str
    custom_id: str | None


class BatchErrorPage(BaseModel):
    object: Literal["list"] = "list"
    data: list[NumberedError]
    first_id: str | None
    last_id: str | None
    has_more: bool
    total: int


class BatchWarning(BaseModel):
    """What admission thinks of a batch that runs all the same."""

    code: str
    message: str


_WARNINGS = TypeAdapter(list[BatchWarning])


class RequestCountsObject(BaseModel):
    total: int
    completed: int
    failed: int


class InputTokensDetails(BaseModel):
    cached_tokens: int


class OutputTokensDetails(BaseModel):
    reasoning_tokens: int = 0


class BatchUsage(BaseModel):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class BatchObject(BaseModel):
    """OpenAI's Batch, and after it what only this server knows."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: str
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCountsObject
    usage: BatchUsage
    metadata: dict[str, str] | None
    paused_at: int | None
    pause_reason: str | None
    deadline_at: int | None
    deadline_missed_at: int | None
    warnings: list[BatchWarning] | None
    on_invalid_line: str
    parent_batch_id: str | None
    eta_at: int | None
    lines_per_s: float | None
    tokens_per_s: float | None
    reuse: str
    reused_requests: int
    quality: dict[str, Any] | None

    @classmethod
    def of(cls, record: BatchRecord, *, errors_max: int | None = None) -> BatchObject:
        same = {name: getattr(record, name) for name in _SAME_IN_BATCH}
        return cls(
            **same,
            model=record.model,
            status=record.status.value,
            on_invalid_line=record.on_invalid_line.value,
            reuse=record.reuse.value,
            reused_requests=record.counts.reused,
            errors=_errors(record, errors_max),
            request_counts=RequestCountsObject(
                total=record.counts.total, completed=record.counts.completed, failed=record.counts.failed
            ),
            usage=_usage(record),
            warnings=None if record.warnings is None else _WARNINGS.validate_json(record.warnings),
            quality=None if errors_max is not None else summary_of(record.quality),
            metadata=None if record.metadata is None else dict(record.metadata),
        )


_SAME_IN_BATCH = (
    "id", "endpoint", "input_file_id", "completion_window", "output_file_id", "error_file_id", "created_at",
    "in_progress_at", "expires_at", "finalizing_at", "completed_at", "failed_at", "expired_at", "cancelling_at",
    "cancelled_at", "paused_at", "pause_reason", "deadline_at", "deadline_missed_at", "parent_batch_id", "eta_at",
    "lines_per_s", "tokens_per_s",
)  # fmt: skip


class BatchList(BaseModel):
    object: Literal["list"] = "list"
    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ModelObject(BaseModel):
    """OpenAI's Model, and after it what only this server knows."""

    model_config = ConfigDict(protected_namespaces=())

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    shutdown_date: str | None = None
    kind: str
    endpoints: list[str]
    revision: str
    max_model_len: int | None

    @classmethod
    def of(cls, info: ModelInfo) -> ModelObject:
        return cls(
            id=info.id,
            created=info.created_at,
            owned_by=info.owned_by,
            kind=info.kind.value,
            endpoints=sorted(info.endpoints),
            revision=info.revision,
            max_model_len=info.context_tokens_max,
        )


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelObject]


def reply(shape: BaseModel, headers: dict[str, str] | None = None) -> Response:
    return Response(shape.model_dump_json(), media_type="application/json", headers=headers)


def error_docs(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error answers of a route, for the OpenAPI document."""
    return {status: {"model": ErrorEnvelope} for status in (*statuses, 401, 500)}


def _errors(record: BatchRecord, errors_max: int | None) -> BatchErrors | None:
    if not record.errors:
        return None
    bytes_left = BATCH_ERRORS_BYTES_MAX if errors_max is None else LISTED_ERRORS_BYTES_MAX
    data: list[BatchError] = []
    for error in record.errors[:errors_max]:
        shape = BatchError(code=error.code, message=error.message, param=error.param, line=error.line)
        bytes_left -= len(shape.model_dump_json().encode())
        if data and bytes_left < 0:
            break
        data.append(shape)
    return BatchErrors(data=data, total=max(record.errors_total, len(record.errors)))


def _usage(record: BatchRecord) -> BatchUsage:
    usage = record.usage
    return BatchUsage(
        input_tokens=usage.input_tokens,
        input_tokens_details=InputTokensDetails(cached_tokens=usage.cached_tokens),
        output_tokens=usage.output_tokens,
        output_tokens_details=OutputTokensDetails(),
        total_tokens=usage.input_tokens + usage.output_tokens,
    )
