"""Every limit of the scheduler, by name. One frozen value, made by the composition root and passed down."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from scheduler.policy import limits
from scheduler.policy.duty import DutySettings
from scheduler.policy.limits import FileLimits
from scheduler.policy.order import Packing
from scheduler.policy.pressure import PressureSettings
from scheduler.policy.taking_back import TakeBackSettings

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ThrottleSettings:
    """How batch work yields to online requests on engines that are bounded from outside."""

    pressure: PressureSettings = field(default_factory=PressureSettings)
    duty: DutySettings = field(default_factory=DutySettings)
    take_back: TakeBackSettings = field(default_factory=TakeBackSettings)
    look_seconds: float = 0.1
    """How often engines are looked at while an online request is present; its coming and going is seen at once."""
    idle_look_seconds: float = 0.5

    def __post_init__(self) -> None:
        if self.look_seconds <= 0 or self.idle_look_seconds <= 0:
            raise ValueError("look_seconds and idle_look_seconds must be above 0")


@dataclass(frozen=True, slots=True)
class SchedulerSettings:
    """Limits of what runs when. Zero is never a way to say "unlimited": every field must be above 0."""

    tick_seconds: float = 0.5
    """How often the loop looks at the store without being woken."""
    life_look_seconds: float = 1.0
    """How often the hours and turns of engines that come and go are looked at."""
    tick_seconds_min: float = 0.01
    """Wake-ups closer together than this become one tick."""

    packing: Packing = Packing.PREFIX
    """Of batches taken in from now on, and of shards leased from now on."""
    shard_lines_max: int = 512
    shard_bytes_max: int = 32 * MIB
    """Input bytes of one shard; a shard's lines are held in memory while it is leased."""
    shards_open_max: int = 8
    """Shards held at once per engine, hence segments that are flushed at once."""
    waiting_multiple: float = 2.0
    """A model's next shard is leased when fewer lines wait than this many times the engine's requests in flight."""
    waiting_lines_min: int = 256
    waiting_seconds: float = 1.0
    """... or than last for this long at the model's measured rate: opening a shard takes several disk syncs."""
    shards_listed_per_batch_max: int = 64
    """Open shards of one batch that a tick looks at."""

    lease_seconds: float = 30.0
    """A holder that could not renew for half of this stops appending; at the end of it another may take over."""
    report_seconds: float = 1.0
    sole_scheduler: bool = False
    """The data folder is locked for this process and it runs one scheduler: leases found at the start are those of a
    dead one, and are taken over at once instead of at their expiry."""

    inflight_requests_multiple: float = 1.0
    """Sub-requests in flight, as a multiple of the engine's own `inflight_requests_max`."""
    inflight_tokens_multiple: float = 1.0
    """KV tokens in flight, as a multiple of the engine's own `inflight_tokens_max`."""
    slice_sub_requests_max: int = 64
    """A line of more sub-requests (inputs, prompts, documents) goes to the engine in slices of at most so many."""
    prompt_bytes_per_token: float = 3.0
    """For estimates of KV use before a tokenizer has seen the prompt; low, so that the estimate errs upwards."""
    predict_lengths: bool = True
    """Of lines whose template is known, count what their answers should need, and not the most that they may."""
    output_tokens_assumed: int = 256
    """Counted for a request that sets no limit of its own: its true limit is the whole context."""

    shared_answer_bytes_max: int = 32 * MIB
    """Of the last answers, in memory, where batches share them: until they are in the store, and for shards that were
    opened before."""

    append_interval_ms: float = 250.0
    append_results_max: int = 128
    append_bytes_max: int = 1 * MIB
    """A group of results is written when the first of these is reached: few syncs (each takes its time from an engine
    on the same cores) while results come slowly, little to generate again after a crash while they come fast."""
    append_threads_max: int = 8

    answer_attempts_max: int = 4
    """Times a line is sent while the engine answers 5xx; the last answer then stands as the line's error."""
    retry_seconds_min: float = 0.1
    retry_seconds_max: float = 30.0
    """Bounds of every back-off: of a line after 5xx, of an engine after a refusal, of a batch after a failure."""
    isolation_patience_seconds: float = 300.0
    """Time that suspects of an engine's deaths wait for that engine before they run apart on another one."""

    hold_work_margin: float = 1.25
    hold_reserve_seconds: float = 600.0
    """A batch waits for the off-peak windows while they have this many times the estimated work, and this much more,
    before its deadline."""

    intakes_max: int = 2
    finalizes_max: int = 2
    """Batches composed at once; one when the disk is below its reserve."""
    job_attempts_max: int = 5
    """Times intake or finalize of one batch may end unexpectedly before the batch fails with `internal_error`."""
    line_errors_shown_max: int = 1000
    file_limits: FileLimits = limits.NONE
    """What a batch input as a whole must keep; the store has limits of its own beside it."""
    output_retention_seconds: int | None = None
    """Life of result files when the batch does not say; None keeps them until they are deleted."""

    throttle: ThrottleSettings = field(default_factory=ThrottleSettings)

    notify_seconds: float = 1.0
    """How often events are looked for that webhooks and the local command should hear of."""
    disk_check_seconds: float = 2.0
    reap_seconds: float = 60.0
    expired_files_per_round_max: int = 100
    orphan_seconds: int = 3600
    """Age at which bytes that no row names are taken for the leavings of a crash."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, bool | str | FileLimits | ThrottleSettings) or value is None:
                continue
            if value <= 0:
                raise ValueError(f"scheduler setting {item.name} must be above 0, not {value}")
        if self.retry_seconds_min > self.retry_seconds_max:
            raise ValueError("retry_seconds_min must not be above retry_seconds_max")

    @property
    def renew_seconds(self) -> float:
        """Three renewals in a row may fail before the fence comes down."""
        return self.lease_seconds / 8

    @property
    def fence_seconds(self) -> float:
        """Age of the last renewal, on the monotonic clock, after which nothing is appended."""
        return self.lease_seconds / 2

    def backoff_seconds(self, attempts: int) -> float:
        """Doubling wait before attempt number `attempts` + 1 (1: the first repetition)."""
        return min(self.retry_seconds_max, self.retry_seconds_min * 2.0 ** min(max(attempts - 1, 0), 30))
