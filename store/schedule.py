"""Why a batch runs or waits: what the scheduler writes with a batch and whoever shows batches reads.

Times are Unix seconds. What is not known is None.
"""

from __future__ import annotations

import msgspec

from store.records import HELD, BatchRecord, BatchStatus

RUNS, WAITS, ENDS, ENDED = "running", "waiting", "ending", "ended"
"""What `Schedule.state` can be."""

AHEAD_SHOWN_MAX = 10
"""Ids of batches ahead that are kept; how many there are is exact."""


class EngineSight(msgspec.Struct, frozen=True, kw_only=True):
    """An engine that serves one of the batch's models.

    `online` requests are on it and `neighbour` ones on other engines of its device; `inflight` are batch requests on
    it, of all batches, and `inflight_max` how many of them it may be given now.
    """

    name: str
    state: str
    reason: str | None = None
    online: int = 0
    neighbour: int = 0
    inflight: int = 0
    inflight_max: int | None = None
    pressure: str | None = None


class WindowSight(msgspec.Struct, frozen=True, kw_only=True):
    """The off-peak window that is open, until `closes_at`, or the next one, from `opens_at` on."""

    name: str
    opens_at: int | None = None
    closes_at: int | None = None


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """`state` and `code` are for programs, `reason` is a sentence for people.

    `place` is counted from 1 among `places` batches in progress, `ahead_total` are those before it that want one of its
    models, and `ahead` the first ones of them that belong to the batch's own tenant. `turn` says why it has its place.
    """

    at: int
    state: str
    code: str
    reason: str
    place: int | None = None
    places: int = 0
    ahead_total: int = 0
    ahead: tuple[str, ...] = ()
    ahead_seconds: float | None = None
    turn: str | None = None
    turn_reason: str | None = None
    work_seconds: float | None = None
    spare_seconds: float | None = None
    share: float | None = None
    inflight: int = 0
    window: WindowSight | None = None
    disk: str | None = None
    engines: tuple[EngineSight, ...] = ()
    starts_at: int | None = None
    ends_at: int | None = None

    def encode(self) -> str:
        return msgspec.json.encode(self).decode()


_decoder = msgspec.json.Decoder(Schedule)


def decode(text: str) -> Schedule:
    return _decoder.decode(text)


def of_status(batch: BatchRecord, *, at: int) -> Schedule:
    """What the batch's row alone says of it."""
    state, code, reason = _by_status(batch)
    return Schedule(at=at, state=state, code=code, reason=reason)


def _by_status(batch: BatchRecord) -> tuple[str, str, str]:
    match batch.status:
        case BatchStatus.VALIDATING if batch.held_at is not None:
            return WAITS, "held", "It is paused on request: once its lines are checked it waits until it is resumed."
        case BatchStatus.VALIDATING:
            return WAITS, "validating", "Its lines are checked and put into order; then it is queued."
        case BatchStatus.IN_PROGRESS if batch.held_at is not None:
            return WAITS, "held", HELD
        case BatchStatus.IN_PROGRESS:
            return WAITS, "next", "It has just been queued or resumed: the scheduler is about to look at it."
        case BatchStatus.FINALIZING:
            return ENDS, "finalizing", "Nothing of it runs any more: its result files are composed."
        case BatchStatus.CANCELLING:
            return ENDS, "cancelling", "It is cancelled: what is done is composed into its result files."
        case _:
            return ENDED, batch.status.value, f"It has ended: {batch.status.value}."


def current(batch: BatchRecord, *, at: int) -> Schedule:
    """What was last written of a batch, unless its row has moved on since."""
    plain = of_status(batch, at=at)
    if batch.status is not BatchStatus.IN_PROGRESS or batch.schedule is None:
        return plain
    written = decode(batch.schedule)
    is_stale = written.state not in (RUNS, WAITS) or written.code == "validating"
    if is_stale or (written.code == "held") != (batch.held_at is not None):
        return plain
    return written
