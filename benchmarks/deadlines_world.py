"""The weeks that the deadlines benchmark runs through: an engine, what online requests leave of it, the batches.

The minutes are measured, the hours are not: an hour of the Azure trace gives how online load comes and goes, and a
table of this file says how busy each hour of the week is, for the trace is one hour long.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time
from functools import cached_property
from pathlib import Path
from zoneinfo import ZoneInfo

from engine.simulated import PROFILES
from scheduler.facts.windows import Calendar, Window

TRACE = Path(__file__).parent / "data" / "azure_llm_2023" / "tokens_per_10s.json"
PROFILE = PROFILES["gpu-8b"]
ZONE = ZoneInfo("Europe/Berlin")
START_AT = datetime(2026, 10, 12, tzinfo=ZONE).astimezone(UTC).timestamp()
"""A Monday; the second week ends with the Sunday on which the clocks go back."""

SLICE, HOUR, DAY, WEEK = 300.0, 3_600.0, 86_400.0, 604_800.0
"""Within a slice of time online load is taken to be even; windows open and close between two slices."""
LINE_PROMPT_TOKENS, LINE_OUTPUT_TOKENS = 400, 120

STEP_SECONDS = PROFILE.seconds_of_step(
    PROFILE.running_max, int(PROFILE.running_max / LINE_OUTPUT_TOKENS * LINE_PROMPT_TOKENS)
)
"""Of an engine that batch work fills: each sequence gets one token, and the prompts of those that follow the finished
ones are computed."""

LINE_LATENCY_SECONDS = STEP_SECONDS * LINE_OUTPUT_TOKENS
LINE_SECONDS = LINE_LATENCY_SECONDS / PROFILE.running_max
"""What an average line takes of the engine."""

BUSY_BY_HOUR = (
    *(0.08, 0.06, 0.05, 0.05, 0.06, 0.10, 0.20, 0.45, 0.75, 1.0, 1.0, 0.95),
    *(0.85, 0.95, 1.0, 1.0, 0.95, 0.85, 0.65, 0.50, 0.40, 0.30, 0.15, 0.10),
)
"""Online load by local hour of a working day, as a share of the busiest; at weekends a fifth of it."""
WEEKEND_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Tier:
    """`deadline_seconds` after its creation a batch is due; `share` of all batch work is of this tier; its batches'
    sizes are lognormal around `median_seconds` of the engine, at most `seconds_max`."""

    name: str
    deadline_seconds: float
    share: float
    median_seconds: float
    sigma: float
    seconds_max: float


TIERS = (
    Tier("1h", HOUR, 0.05, 40.0, 1.0, 600.0),
    Tier("24h", DAY, 0.25, 300.0, 1.2, 3 * HOUR),
    Tier("7d", WEEK, 0.70, 1_500.0, 1.5, 10 * HOUR),
)
TENANTS = {"search": 8.0, "support": 4.0, "research": 3.0, "billing": 2.0, "legal": 2.0, "interns": 1.0}
"""How much more often one tenant sends batches than another, which is also the share of the engine agreed with it."""


@dataclass(frozen=True, slots=True)
class Job:
    """A batch. `seconds_per_line` is what a line of it truly takes of the engine; nobody knows it beforehand."""

    id: str
    tenant: str
    tier: str
    created_at: float
    deadline_at: float
    lines: int
    seconds_per_line: float

    @property
    def work_seconds(self) -> float:
        return self.lines * self.seconds_per_line


@dataclass(frozen=True)
class Room:
    """What online requests leave: engine seconds of every slice from `START_AT` on."""

    slices: Sequence[float]
    calendar: Calendar

    def at(self, now: float) -> float:
        """Engine seconds that batch work can have per second; after the last slice the weeks repeat."""
        slice_no = int((now - START_AT) // SLICE)
        return self.slices[slice_no % len(self.slices)] / SLICE

    @cached_property
    def seconds(self) -> float:
        return sum(self.slices)

    @cached_property
    def off_peak_seconds(self) -> float:
        return sum(
            left for no, left in enumerate(self.slices) if self.calendar.open_at(START_AT + no * SLICE) is not None
        )


def calendar() -> Calendar:
    """Nights of working days, and weekends."""
    night = Window("night", frozenset({0, 1, 2, 3, 4, 6}), time(22), time(6), ZONE)
    weekend = Window("weekend", frozenset({5, 6}), time(0), time(0), ZONE)
    return Calendar((night, weekend), zone=ZONE)


def room(*, weeks: int, peak_share: float) -> Room:
    """`peak_share`: of the engine's time that online requests take on average in the busiest hour of the week.

    What a request takes is what its tokens add to the engine's steps: the step itself is shared with the batch.
    """
    bins, bin_seconds = _online_shares()
    scale = peak_share / (sum(bins) / len(bins))
    per_slice = int(SLICE / bin_seconds)
    slices = []
    for no in range(int(weeks * WEEK / SLICE)):
        local = datetime.fromtimestamp(START_AT + no * SLICE, ZONE)
        busy = BUSY_BY_HOUR[local.hour] * (WEEKEND_SHARE if local.weekday() >= 5 else 1.0)
        shares = (bins[(no * per_slice + k) % len(bins)] for k in range(per_slice))
        slices.append(sum(bin_seconds * (1.0 - min(1.0, scale * busy * share)) for share in shares))
    return Room(slices, calendar())


def _online_shares() -> tuple[list[float], float]:
    """Of each interval of the trace, both services together: the share of the engine that its tokens take."""
    trace = json.loads(TRACE.read_text())
    seconds = float(trace["bin_seconds"])
    both = []
    for kind in ("code", "conv"):
        tokens = zip(trace[kind]["context_tokens"], trace[kind]["generated_tokens"], strict=True)
        both.append([(c * PROFILE.prefill_seconds + g * PROFILE.decode_seconds) / seconds for c, g in tokens])
    return [code + conv for code, conv in zip(*both, strict=False)], seconds


def jobs(*, weeks: int, work_seconds: float, estimates_off: float, seed: int) -> list[Job]:
    """Batches of so many weeks that need `work_seconds` together: small ones all day, large ones all week.

    The true time of a line differs from batch to batch by up to `estimates_off`, as a share, either way.
    """
    source = random.Random(seed)
    found = []
    for tier in TIERS:
        found += _of_tier(tier, weeks=weeks, work_seconds=tier.share * work_seconds, off=estimates_off, source=source)
    return [replace(job, id=f"batch_{no:04d}") for no, job in enumerate(sorted(found, key=lambda job: job.created_at))]


def _of_tier(tier: Tier, *, weeks: int, work_seconds: float, off: float, source: random.Random) -> list[Job]:
    """Sizes until the work is used up; the last one is whatever is left."""
    sizes: list[float] = []
    left = work_seconds
    while left > 0:
        sizes.append(min(left, tier.seconds_max, source.lognormvariate(math.log(tier.median_seconds), tier.sigma)))
        left -= sizes[-1]
    made = []
    for size in sizes:
        each = LINE_SECONDS * source.uniform(1 - off, 1 + off)
        created_at = float(int(START_AT + _moment(weeks, source)))
        tenant = source.choices(list(TENANTS), weights=list(TENANTS.values()))[0]
        lines = max(1, round(size / each))
        made.append(Job("", tenant, tier.name, created_at, created_at + tier.deadline_seconds, lines, each))
    return made


def _moment(weeks: int, source: random.Random) -> float:
    """When a batch is sent: mostly in working hours, as likely in each hour as online requests, and a bit at night."""
    while True:
        moment = source.uniform(0, weeks * WEEK)
        local = datetime.fromtimestamp(START_AT + moment, ZONE)
        busy = BUSY_BY_HOUR[local.hour] * (WEEKEND_SHARE if local.weekday() >= 5 else 1.0)
        if source.random() < busy:
            return moment
