"""A batch as the policies see it: how much work it has, by when, for whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scheduler.facts.deadlines import due_at, is_late, lines_left
from scheduler.facts.tiers import DEFAULT_TERMS, TierTerms
from store.records import BatchRecord


@dataclass(frozen=True, slots=True)
class ModelKey:
    """A pinned model: what a shard runs on."""

    id: str
    revision: str


@dataclass(frozen=True, slots=True)
class Job:
    """`work_seconds` is what is left of it and `alone_seconds` all of it, each as if it had its engines to itself
    outside peak hours; None while no rate of its models is known. `due_at` is its deadline, or a later one where that
    has passed and it runs on. `weight` is that of its tier."""

    batch_id: str
    tenant: str
    tier: str
    created_at: float
    due_at: float
    lines_left: int
    lines: int
    work_seconds: float | None
    alone_seconds: float | None
    weight: float
    models: frozenset[ModelKey]
    is_late: bool = False

    @property
    def work_known(self) -> float:
        """What is not known is not counted."""
        return self.work_seconds or 0.0


def job_of(
    batch: BatchRecord,
    *,
    now: float,
    seconds_per_line: Mapping[ModelKey, float],
    relative_size: float = 1.0,
    terms: TierTerms = DEFAULT_TERMS,
) -> Job:
    """`relative_size` is what a line of this batch costs, in lines of the mean size that the rate was measured on."""
    models = models_of(batch)
    rate = line_seconds(models, seconds_per_line)
    each = None if rate is None else rate * relative_size
    left, lines = lines_left(batch), batch.counts.total
    return Job(
        batch_id=batch.id,
        tenant=batch.tenant,
        tier=batch.completion_window,
        created_at=batch.created_at,
        due_at=due_at(batch, now=now),
        lines_left=left,
        lines=lines,
        work_seconds=None if each is None else left * each,
        alone_seconds=None if each is None else lines * each,
        weight=terms.weight,
        models=models,
        is_late=is_late(batch, now=now),
    )


def models_of(batch: BatchRecord) -> frozenset[ModelKey]:
    return frozenset(ModelKey(pin.id, pin.revision) for pin in batch.models.values())


def line_seconds(models: frozenset[ModelKey], seconds_per_line: Mapping[ModelKey, float]) -> float | None:
    """At the slowest measured rate of its models; None when one of them has none yet."""
    rates = [seconds_per_line.get(key) or None for key in models]
    known = [rate for rate in rates if rate is not None]
    return max(known) if known and len(known) == len(rates) else None
