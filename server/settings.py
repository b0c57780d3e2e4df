"""Every limit of the HTTP side, by name. One frozen value, made by the composition root and passed down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from store.records import OnDeadline, OnInvalidLine, Reuse

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
HOUR_SECONDS = 3600
DAY_SECONDS = 24 * HOUR_SECONDS

RETRY_AFTER_SECONDS_MAX = 120.0
"""OpenAI's clients give up at once when `retry-after` is above this."""


@dataclass(frozen=True, slots=True)
class Tier:
    """What a `completion_window` means: the deadline, and what happens when it passes."""

    seconds: int
    on_deadline: OnDeadline = OnDeadline.EXPIRE

    def __post_init__(self) -> None:
        if self.seconds <= 0:
            raise ValueError(f"a tier's seconds must be above 0, not {self.seconds}")


DEFAULT_TIERS: Mapping[str, Tier] = MappingProxyType(
    {"1h": Tier(HOUR_SECONDS), "24h": Tier(DAY_SECONDS), "7d": Tier(7 * DAY_SECONDS)}
)


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """`upload_bytes_max` must not be above the store's limit of the same name: here it refuses by Content-Length,
    before a byte is read; the store counts the bytes that really arrive."""

    tiers: Mapping[str, Tier] = field(default_factory=lambda: DEFAULT_TIERS)

    strict_openai: bool = False
    """OpenAI's own limits and rules for files, in place of this server's wider ones (`server.openai.strict`)."""

    upload_bytes_max: int = 8 * GIB
    part_bytes_max: int = 64 * MIB
    """One part of an upload in parts; OpenAI's clients cut files into parts of exactly this size."""
    upload_parts_max: int = 10_000
    upload_seconds: int = HOUR_SECONDS
    """How long an upload in parts waits to be completed."""
    form_field_bytes_max: int = 8 * KIB
    form_parts_max: int = 32
    filename_chars_max: int = 1024
    json_body_bytes_max: int = 64 * MIB
    body_silence_seconds_max: float = 60.0
    """How long a request's body may bring no byte before the request ends with 408."""

    files_list_limit_default: int = 10_000
    files_list_limit_max: int = 10_000
    batches_list_limit_default: int = 20
    batches_list_limit_max: int = 100
    listed_batch_errors_max: int = 10
    """Line errors of each batch in a list; `GET /v1/batches/{id}` shows all that the store keeps. `total` is exact."""

    deadline_seconds_max: int = 366 * DAY_SECONDS
    """How far ahead a client may put its deadline; what is further ahead is a slip, of milliseconds mostly."""
    metadata_pairs_max: int = 16
    metadata_key_chars_max: int = 64
    metadata_value_chars_max: int = 512

    on_invalid_line: OnInvalidLine = OnInvalidLine.FAIL
    """What malformed lines do to their batch when its create does not say."""
    reuse: Reuse = Reuse.OFF
    """With which requests a batch shares answers when its create does not say."""
    results_list_limit_default: int = 1_000
    results_list_limit_max: int = 10_000
    results_page_bytes_max: int = 16 * MIB
    errors_list_limit_default: int = 100
    errors_list_limit_max: int = 1000

    idempotency_key_chars_max: int = 255
    repeated_create_seconds: int = 600
    """A create that a client says it repeats is the same batch as one with the same body within this time."""

    expires_after_seconds_min: int = HOUR_SECONDS
    expires_after_seconds_max: int = 30 * DAY_SECONDS
    batch_file_expires_seconds: int | None = 30 * DAY_SECONDS
    """When an uploaded batch input expires if the client does not say; None keeps it until it is deleted."""
    output_expires_seconds: int | None = 30 * DAY_SECONDS
    """When results expire if the client does not say, counted from when they were written; None keeps them."""

    flex_inflight_max: int = 64
    """Requests of service_tier `flex` that are held open at once, waiting or running; more are 429."""
    flex_beside_online_max: int = 2
    """Of those, how many run on a device while an online request is on it."""
    flex_wait_seconds_max: float = 900.0
    """How long one waits for its turn before it is 429: clients of flex are told to wait for 15 minutes."""

    retry_after_seconds: float = 10.0
    """The hint sent with 503 when no engine can answer."""
    engine_metrics_seconds_max: float = 5.0
    """How long `/metrics` waits for one engine's own series."""
    gzip_bytes_min: int = 1 * KIB
    """File contents below this are never compressed."""

    def __post_init__(self) -> None:
        if not self.tiers:
            raise ValueError("server setting tiers is empty: at least one completion_window is needed")
        if not 0 < self.retry_after_seconds <= RETRY_AFTER_SECONDS_MAX:
            raise ValueError(
                f"server setting retry_after_seconds must be above 0 and at most {RETRY_AFTER_SECONDS_MAX:.0f}, "
                f"not {self.retry_after_seconds}: OpenAI's clients ignore longer hints and give up"
            )
        for name in (
            "upload_bytes_max",
            "json_body_bytes_max",
            "body_silence_seconds_max",
            "form_parts_max",
            "flex_inflight_max",
            "flex_beside_online_max",
            "flex_wait_seconds_max",
        ):
            if getattr(self, name) <= 0:
                raise ValueError(f"server setting {name} must be above 0, not {getattr(self, name)}")
