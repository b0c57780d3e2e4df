"""The records that cross the store's door: plain frozen values, no behaviour beyond their own arithmetic.

Times are Unix seconds (`*_at`, int where OpenAI shows them). Every record belongs to a tenant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")


class BatchStatus(StrEnum):
    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        return self in TERMINAL_STATUSES


TERMINAL_STATUSES = frozenset({BatchStatus.COMPLETED, BatchStatus.FAILED, BatchStatus.EXPIRED, BatchStatus.CANCELLED})

BATCH_EDGES: Mapping[BatchStatus, frozenset[BatchStatus]] = {
    BatchStatus.VALIDATING: frozenset({BatchStatus.IN_PROGRESS, BatchStatus.FAILED, BatchStatus.CANCELLING}),
    BatchStatus.IN_PROGRESS: frozenset({BatchStatus.FINALIZING, BatchStatus.CANCELLING, BatchStatus.FAILED}),
    BatchStatus.FINALIZING: frozenset(
        {BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.CANCELLING, BatchStatus.FAILED}
    ),
    BatchStatus.CANCELLING: frozenset({BatchStatus.CANCELLED, BatchStatus.FAILED}),
}
"""The only edges a status moves along, each by compare-and-set. Terminal states have none."""


HELD = "Paused on request; nothing of it runs until it is resumed. Its deadline still counts."
"""`pause_reason` of a batch with `held_at`: said by who takes the request and by who keeps the batch waiting."""


class ShardState(StrEnum):
    READY = "ready"
    LEASED = "leased"
    SEALED = "sealed"


class OnDeadline(StrEnum):
    EXPIRE = "expire"
    CONTINUE = "continue"


class OnInvalidLine(StrEnum):
    """What a malformed input line does to its batch: end it as `failed`, or become an error line of its own."""

    FAIL = "fail"
    REPORT = "report"


class Reuse(StrEnum):
    """With which requests a batch shares answers: with none, with its own, or with all of its tenant's."""

    OFF = "off"
    BATCH = "batch"
    SERVER = "server"


class UploadStatus(StrEnum):
    PENDING = "pending"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class LineError:
    """A validation error of one input line (`line` is 1-based, as OpenAI counts) or of the whole file (`line` None)."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


@dataclass(frozen=True, slots=True)
class InputSummary:
    """What indexing found in a batch input file: enough to answer `create` without opening the index.

    `models` and `urls` are the distinct values of well-formed lines. `errors` holds the first `line_errors_shown_max`
    of `error_lines` broken ones (form only: JSON, keys, method, duplicate custom_id).
    """

    lines: int
    error_lines: int
    models: tuple[str, ...]
    urls: tuple[str, ...]
    sub_requests: int
    prompt_bytes: int
    errors: tuple[LineError, ...] = ()


@dataclass(frozen=True, slots=True)
class FileRecord:
    """An API file. `blob` is the key of its bytes; `summary` is set for indexed batch inputs."""

    id: str
    tenant: str
    purpose: str
    filename: str
    bytes: int
    created_at: int
    expires_at: int | None
    blob: str
    summary: InputSummary | None = None


@dataclass(frozen=True, slots=True)
class PinnedModel:
    """What a model name in the input meant when the batch was created; it never changes afterwards."""

    id: str
    revision: str


@dataclass(frozen=True, slots=True)
class RequestCounts:
    """`reused` of the `completed` have the answer that an identical request got."""

    total: int = 0
    completed: int = 0
    failed: int = 0
    reused: int = 0


@dataclass(frozen=True, slots=True)
class TokenUsage:
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0

    def __add__(self, other: TokenUsage) -> TokenUsage:
        return TokenUsage(
            self.input_tokens + other.input_tokens,
            self.cached_tokens + other.cached_tokens,
            self.output_tokens + other.output_tokens,
        )


@dataclass(frozen=True, slots=True)
class NewBatch:
    """What `create` stores. `models` maps each model name as written in the input to what it is pinned to; a name that
    is not served is left out (intake then fails the batch with `model_not_found`). `expires_at` is the deadline;
    `deadline_at` is the same where the client named it instead of leaving it to the completion window."""

    id: str
    tenant: str
    endpoint: str
    input_file_id: str
    completion_window: str
    created_at: int
    expires_at: int
    on_deadline: OnDeadline
    models: Mapping[str, PinnedModel]
    metadata: Mapping[str, str] | None = None
    output_expires_after_seconds: int | None = None
    on_invalid_line: OnInvalidLine = OnInvalidLine.FAIL
    idempotency_key: str | None = None
    request_digest: str | None = None
    parent_batch_id: str | None = None
    deadline_at: int | None = None
    reuse: Reuse = Reuse.OFF


@dataclass(frozen=True, slots=True)
class BatchRecord:
    id: str
    tenant: str
    endpoint: str
    input_file_id: str
    completion_window: str
    status: BatchStatus
    created_at: int
    expires_at: int
    on_deadline: OnDeadline
    models: Mapping[str, PinnedModel]
    metadata: Mapping[str, str] | None = None
    output_expires_after_seconds: int | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    deadline_missed_at: int | None = None
    paused_at: int | None = None
    pause_reason: str | None = None
    counts: RequestCounts = field(default_factory=RequestCounts)
    usage: TokenUsage = field(default_factory=TokenUsage)
    errors: tuple[LineError, ...] = ()
    errors_total: int = 0
    output_file_id: str | None = None
    error_file_id: str | None = None
    on_invalid_line: OnInvalidLine = OnInvalidLine.FAIL
    invalid_lines: int = 0
    idempotency_key: str | None = None
    request_digest: str | None = None
    parent_batch_id: str | None = None
    held_at: int | None = None
    eta_at: int | None = None
    lines_per_s: float | None = None
    tokens_per_s: float | None = None
    quality: str | None = None
    deadline_at: int | None = None
    warnings: str | None = None
    schedule: str | None = None
    reuse: Reuse = Reuse.OFF

    @property
    def model(self) -> str | None:
        """The one model that all lines run on, or None when the input mixes several."""
        ids = {pinned.id for pinned in self.models.values()}
        return ids.pop() if len(ids) == 1 else None


@dataclass(frozen=True, slots=True)
class NewShard:
    """Positions `start` to `stop` (exclusive) of a batch's execution order, all of one model."""

    shard_no: int
    start: int
    stop: int
    model: str
    revision: str


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """`generation` counts leases taken so far (0: never leased). While leased, the current generation writes segment
    (shard, generation). `done` and `failed` are hints of progress; segments are the truth."""

    batch_id: str
    shard_no: int
    start: int
    stop: int
    model: str
    revision: str
    state: ShardState
    generation: int = 0
    holder: str | None = None
    lease_expires_at: float | None = None
    completed: int = 0
    failed: int = 0
    usage: TokenUsage = field(default_factory=TokenUsage)
    quality: str | None = None

    @property
    def lines(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class SegmentRef:
    """A segment that counts: the first `valid_bytes` of (shard, generation). None: all of it that checksums right (only
    for the generation that sealed the shard or still holds it)."""

    batch_id: str
    shard_no: int
    generation: int
    valid_bytes: int | None


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write segment (shard, generation) until `expires_at`. `earlier` are the segments of former
    generations, lowest first: a line that has a result there is done."""

    shard: ShardRecord
    holder: str
    generation: int
    expires_at: float
    earlier: tuple[SegmentRef, ...]


@dataclass(frozen=True, slots=True)
class ShardProgress:
    """Counts over all generations of a shard, as its holder knows them."""

    batch_id: str
    shard_no: int
    generation: int
    completed: int
    failed: int
    usage: TokenUsage
    quality: str | None = None
    """Of all its lines (`store.quality`), where its sealer knows it."""
    reused: int = 0


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """An answer that may be given to every request with the same key."""

    key: bytes
    status_code: int
    body: bytes


@dataclass(frozen=True, slots=True)
class LineResult:
    """One line's result on its way into a segment. `line` is the finished JSONL line without a newline; `succeeded`
    says whether it belongs to the output file or to the error file. `request` is the body it answers, for whoever
    judges the answer. `reused`: the answer is another line's; `keep`: others may have this one."""

    line_no: int
    succeeded: bool
    line: bytes
    usage: TokenUsage
    request: bytes | None = None
    reused: bool = False
    keep: KeptAnswer | None = None


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A page of a list, with OpenAI's cursor rule: `has_more` is exact."""

    data: tuple[T, ...]
    has_more: bool


class StoreError(Exception):
    """What the store refuses, with a sentence for the client.

    StoreError
      DiskFull        the disk reserve is reached (507)
      TooLarge        an upload is above `upload_bytes_max` (413)
      FileInUse       the file belongs to a batch that has not ended (409)
      NotPending      the upload takes no more parts: it was completed, cancelled, or has expired (400)
      TooManyParts    the upload has as many parts as one may have (400)
      NotFound        no such row for this tenant (404)
      StaleLease      the lease is no longer ours: stop writing, the shard has another holder
      Damaged         a blob, index or segment fails its checksum; the message names the file and the offset
      FolderLocked    another server has the data folder
    """


class DiskFull(StoreError):
    """Its text goes to clients, who have no business with `path`: that is for the log."""

    def __init__(self, message: str, path: Path | None = None) -> None:
        super().__init__(message)
        self.path = path

    @property
    def for_log(self) -> str:
        return str(self) if self.path is None else f"{self} ({self.path})"


class TooLarge(StoreError):
    pass


class FileInUse(StoreError):
    pass


class NotPending(StoreError):
    pass


class TooManyParts(StoreError):
    pass


class NotFound(StoreError):
    pass


class StaleLease(StoreError):
    pass


class Damaged(StoreError):
    pass


class FolderLocked(StoreError):
    pass
