"""Every limit of the store, by name. One frozen value, made by the composition root and passed down."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Limits of uploads, of the disk and of the database.

    `disk_reserve_bytes` stays free of uploads and of new leases, so that what has started can always be finished.
    """

    upload_bytes_max: int = 8 * GIB
    line_bytes_max: int = 16 * MIB
    lines_max: int = 5_000_000
    line_errors_shown_max: int = 1000
    index_workers_max: int = 2
    """Worker processes that index uploads; more uploads than this wait their turn."""

    intake_bytes_per_s_online: float = 8 * MIB
    """How fast files are taken in, ordered, composed, merged and compressed while an online request is under way."""
    download_bytes_per_s_online: float = 32 * MIB
    """... and how fast files go out; both are for all clients together."""
    online_linger_seconds: float = 10.0
    """So long after an online request has ended it still goes slowly: whoever reads an answer asks again, and the first
    token of the next one would meet work at full speed."""

    disk_reserve_bytes: int = 1 * GIB
    reuse_bytes_max: int = 1 * GIB
    """Answers kept for requests that are asked again; those that were not used for longest go first. Each batch that
    shares only with itself has as much again for as long as it runs."""
    reuse_kept_seconds: float = 14 * 24 * 3600.0
    """How long an answer is kept since it was last used."""

    readers_max: int = 8
    """Connections that read the metadata at once; there is always exactly one that writes."""

    busy_timeout_seconds: float = 5.0
    """How long a writer waits for another process's write transaction on the same file."""

    pool_timeout_seconds: float = 30.0
    """How long a call waits for a free connection before it is an error."""

    def __post_init__(self) -> None:
        for name in (
            "upload_bytes_max",
            "line_bytes_max",
            "lines_max",
            "line_errors_shown_max",
            "index_workers_max",
            "intake_bytes_per_s_online",
            "download_bytes_per_s_online",
            "online_linger_seconds",
            "reuse_bytes_max",
            "reuse_kept_seconds",
            "readers_max",
            "busy_timeout_seconds",
            "pool_timeout_seconds",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"store setting {name} must be above 0, not {getattr(self, name)}")
        if self.disk_reserve_bytes < 0:
            raise ValueError(f"store setting disk_reserve_bytes must not be negative: {self.disk_reserve_bytes}")
