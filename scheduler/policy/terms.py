"""What is agreed before anything runs: tiers, tenants, windows, and what becomes of a batch that cannot be in time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from scheduler.facts.tiers import TierTerms
from scheduler.facts.windows import Calendar
from scheduler.policy.ranking import Order


class OnInfeasible(StrEnum):
    """What admission does with a batch whose deadline it cannot promise: take it and say so, or refuse it."""

    WARN = "warn"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Terms:
    tiers: Mapping[str, TierTerms] = field(default_factory=dict)
    order: Order = field(default_factory=Order)
    calendar: Calendar = field(default_factory=Calendar)
    on_infeasible: OnInfeasible = OnInfeasible.WARN
