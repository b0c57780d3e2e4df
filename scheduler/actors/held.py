"""A leased shard in memory, and its lines that have no result yet."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field, replace

from scheduler.policy.detours import Run
from scheduler.policy.packer import Cost
from scheduler.policy.planner import HeldView, ModelKey
from store.asked import AskedReader
from store.kept_answers import KeptAnswers
from store.quality import Quality
from store.records import Lease, LineResult, ShardProgress, TokenUsage
from store.segments import SegmentWriter


@dataclass(slots=True, eq=False)
class Line:
    """A request of a held shard. `sent` counts how often it went to an engine, the rest why it came back.

    `begun` is the value of `sent` when a task last began to ask for it. `whole`: it is sent as one request, whatever
    its size. `recalls`: how often it was taken back for an online request.
    """

    shard: HeldShard
    line_no: int
    custom_id: str
    body: bytes
    cost: Cost
    sent: int = 0
    bad_answers: int = 0
    refusals: int = 0
    begun: int = 0
    whole: bool = False
    recalls: int = 0
    reuse_key: bytes | None = None
    """Lines with the same one may have the same answer; None: this line has its own."""

    template: int = 0
    """What it has in common with others whose answers tell how long its own will be; 0: nothing."""

    output_limit: int = 0
    """Tokens that each sequence may generate, as the client says; 0: it does not."""

    most: Cost | None = None
    """The most that it may cost, where `cost` is a prediction."""

    @property
    def is_gone(self) -> bool:
        """Nothing of it is wanted any more."""
        return self.shard.is_gone

    @property
    def request_name(self) -> str:
        """What it is called within its batch."""
        return str(self.line_no)

    def request_body(self) -> bytes:
        return self.body

    @property
    def key(self) -> tuple[str, int]:
        return self.shard.batch_id, self.line_no


@dataclass(slots=True, eq=False)
class HeldShard:
    """What this scheduler knows of a shard that it holds.

    Every line is done (durable), in `buffer`, in `waiting`, in `stored`, or in the dispatcher's hands. `completed`,
    `failed`, `reused` and `usage` count durable results over all generations. Once `dropped` is set nothing of it is
    recorded any more.
    """

    batch_id: str
    tenant: str
    endpoint: str
    lease: Lease
    model: ModelKey
    confirmed_at: float
    """Monotonic time just before the last renewal (or the lease itself) was asked for: the fence counts from here."""

    completed: int = 0
    failed: int = 0
    reused: int = 0
    usage: TokenUsage = field(default_factory=TokenUsage)
    waiting: deque[Line] = field(default_factory=deque)
    tasks: dict[asyncio.Task[None], Line] = field(default_factory=dict)
    runs: dict[int, Run] = field(default_factory=dict)
    """Its lines by prefix, as far as nobody has brought them to the front yet."""

    shares: bool = False
    """Lines of it share a prefix."""

    kept: KeptAnswers | None = None
    """Where answers of its batch are kept for others; None when it shares none."""

    stored: deque[tuple[Line, int]] = field(default_factory=deque)
    """Lines whose answer is kept there, with its bytes."""

    is_filling: bool = False
    """Those are being given their answers."""

    buffer: list[LineResult] = field(default_factory=list)
    buffer_bytes: int = 0
    appended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when results have been written."""

    writer: SegmentWriter | None = None
    flusher: asyncio.Task[None] | None = None
    flush_now: asyncio.Event = field(default_factory=asyncio.Event)
    dropped: bool = False
    lost: bool = False
    lost_by: Exception | None = None
    """What broke it, where it was not just taken over by another holder."""

    blocked: bool = False
    """Its results cannot be written just now (the disk is full): no line of it starts."""

    leaving: bool = False
    """It is being given back: none of its lines starts, and what cannot be written at once is forgotten."""

    quality: Quality | None = None
    """Of its durable results; None where that of some could not be read: then the finalizer looks at all."""

    asked: AskedReader = field(default_factory=AskedReader)
    sealing: bool = False
    reported: int = -1

    @property
    def shard_no(self) -> int:
        return self.lease.shard.shard_no

    @property
    def place(self) -> tuple[str, int, int]:
        """What a renewal names it by."""
        return self.batch_id, self.shard_no, self.lease.generation

    @property
    def durable(self) -> int:
        return self.completed + self.failed

    @property
    def is_done(self) -> bool:
        return self.durable == self.lease.shard.lines

    @property
    def is_answered(self) -> bool:
        """Every line has a result, some perhaps not durable yet."""
        return self.durable + len(self.buffer) == self.lease.shard.lines

    @property
    def is_gone(self) -> bool:
        return self.dropped or self.leaving

    def progress(self) -> ShardProgress:
        return ShardProgress(
            self.batch_id,
            self.shard_no,
            self.lease.generation,
            self.completed,
            self.failed,
            self.usage,
            reused=self.reused,
        )

    def whole(self) -> ShardProgress:
        """The progress of a shard that is done, with its quality."""
        known = self.quality is not None and self.quality.lines == self.lease.shard.lines
        quality = self.quality.encode() if self.quality is not None and known else None
        return replace(self.progress(), quality=quality)

    def view(self) -> HeldView:
        is_idle = not self.tasks and not self.buffer and not self.sealing and not self.is_filling
        return HeldView(self.batch_id, self.shard_no, self.model, len(self.waiting), is_idle, self.shares)

    def log_extra(self) -> dict[str, object]:
        return {"tenant": self.tenant, "batch": self.batch_id, "shard": self.shard_no}
