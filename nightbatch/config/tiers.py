"""`[tiers.NAME]` and `[admission]`: what a `completion_window` means, and what becomes of one that cannot be kept."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from nightbatch.config.refusals import AtKey
from nightbatch.config.windows import WindowsSection

HOUR = 3600
DAY = 24 * HOUR
TIER_DAYS_MAX = 36_500
"""A hundred years: what is longer is a slip, and a time that a database cannot hold is a failure later."""

TIERS: Mapping[str, Mapping[str, Any]] = {
    "1h": {"seconds": HOUR, "discount": 0.2, "weight": 4.0},
    "24h": {"seconds": DAY, "discount": 0.5, "weight": 2.0},
    "7d": {"seconds": 7 * DAY, "discount": 0.5},
}


class TierConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    seconds: int = Field(DAY, ge=60, le=TIER_DAYS_MAX * DAY, description="from creation to the deadline (s)")
    discount: float = Field(0.0, ge=0, lt=1, description="taken off the list price (0.5 is half)")
    on_deadline: Literal["expire", "continue"] = Field(
        "expire", description="`expire` ends the batch with what it has; `continue` finishes it late"
    )
    weight: float = Field(
        1.0, gt=0, le=1000, description="of two batches like each other the one of the heavier tier goes first"
    )
    outside: Literal["inherit", "fill", "hold"] = Field(
        "inherit",
        description="in peak hours: `fill` runs, `hold` waits while its deadline allows; or as `[windows]` says",
    )
    offered: bool = Field(True, description="false takes a built-in tier away")


class AdmissionSection(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    infeasible: Literal["warn", "refuse"] = Field(
        "warn", description="a batch whose deadline cannot be kept runs with a warning on it, or is refused"
    )


def over_the_built_in_ones(given: Any) -> Any:
    """A file that sets one key of one tier keeps the rest."""
    if not isinstance(given, Mapping):
        return given
    merged: dict[str, Any] = {name: dict(tier) for name, tier in TIERS.items()}
    for name, tier in given.items():
        merged[name] = {**merged.get(name, {}), **tier} if isinstance(tier, Mapping) else tier
    return merged


def built_in() -> dict[str, TierConfig]:
    return {name: TierConfig.model_validate(tier) for name, tier in TIERS.items()}


def check_tiers(tiers: Mapping[str, TierConfig], windows: WindowsSection, *, strict_openai: bool) -> None:
    """What can be seen only of all together. Raises AtKey or ValueError."""
    if not any(tier.offered for tier in tiers.values()):
        raise ValueError("tiers: at least one must be offered")
    if strict_openai and not tiers["24h"].offered:
        raise ValueError("tiers: 24h must be offered: with server.strict_openai it is the only one")
    for name, tier in tiers.items():
        if tier.offered and tier.outside == "hold" and not windows.off_peak:
            raise AtKey(
                ("tiers", name, "outside"),
                'outside = "hold" needs a window to wait for: add [[windows.off_peak]] with start and end',
            )
    for (name, tier), (other_name, other) in combinations(_offered(tiers).items(), 2):
        if _but_for_price(tier) == _but_for_price(other) and tier.discount != other.discount:
            raise AtKey(
                ("tiers", other_name, "discount"),
                f"{name} and {other_name} promise the same for {tier.discount:.0%} and {other.discount:.0%} off: give "
                "them one discount, or make them differ in seconds, weight, outside or on_deadline",
            )


def doubtful(tiers: Mapping[str, TierConfig]) -> list[str]:
    """What is allowed but hardly meant: a tier that takes longer than another and costs more."""
    found = []
    for (name, tier), (other_name, other) in combinations(_offered(tiers).items(), 2):
        (fast_name, fast), (slow_name, slow) = sorted(
            ((name, tier), (other_name, other)), key=lambda item: item[1].seconds
        )
        if fast.seconds < slow.seconds and fast.discount > slow.discount:
            found.append(
                f"tiers: {slow_name} takes longer than {fast_name} ({slow.seconds} s, {fast.seconds} s) and gets the "
                f"smaller discount ({slow.discount:.0%}, {fast.discount:.0%}): nobody has a reason to choose it"
            )
    return found


def _offered(tiers: Mapping[str, TierConfig]) -> dict[str, TierConfig]:
    return {name: tier for name, tier in tiers.items() if tier.offered}


def _but_for_price(tier: TierConfig) -> tuple[object, ...]:
    return tier.seconds, tier.on_deadline, tier.weight, tier.outside
