"""What survives a crash: files, batches, shards, leases, segments; one SQLite file and one folder.

Records and settings are plain and cheap to import; the database is loaded when `open_store` is first asked for, so that
index workers and `--help` never pay for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from store.records import (
    BATCH_EDGES,
    TERMINAL_STATUSES,
    BatchRecord,
    BatchStatus,
    Damaged,
    DiskFull,
    FileInUse,
    FileRecord,
    FolderLocked,
    InputSummary,
    Lease,
    LineError,
    LineResult,
    NewBatch,
    NewShard,
    NotFound,
    OnDeadline,
    Page,
    PinnedModel,
    RequestCounts,
    SegmentRef,
    ShardProgress,
    ShardRecord,
    ShardState,
    StaleLease,
    StoreError,
    TokenUsage,
    TooLarge,
)
from store.settings import StoreSettings

if TYPE_CHECKING:
    from store.store import Store, open_store

__all__ = [
    "BATCH_EDGES",
    "TERMINAL_STATUSES",
    "BatchRecord",
    "BatchStatus",
    "Damaged",
    "DiskFull",
    "FileInUse",
    "FileRecord",
    "FolderLocked",
    "InputSummary",
    "Lease",
    "LineError",
    "LineResult",
    "NewBatch",
    "NewShard",
    "NotFound",
    "OnDeadline",
    "Page",
    "PinnedModel",
    "RequestCounts",
    "SegmentRef",
    "ShardProgress",
    "ShardRecord",
    "ShardState",
    "StaleLease",
    "Store",
    "StoreError",
    "StoreSettings",
    "TokenUsage",
    "TooLarge",
    "open_store",
]


def __getattr__(name: str) -> Any:
    if name not in {"Store", "open_store"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from store import store

    return getattr(store, name)
