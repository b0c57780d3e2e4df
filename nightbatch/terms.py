"""The configuration in the scheduler's words: windows, tiers, tenants, admission."""

from __future__ import annotations

from nightbatch.config import Config
from scheduler.facts.tiers import Outside, TierTerms
from scheduler.policy.holding import Hold
from scheduler.policy.ranking import Order
from scheduler.policy.terms import OnInfeasible, Terms
from scheduler.settings import SchedulerSettings


def terms(config: Config) -> Terms:
    return Terms(
        tiers=_tiers(config),
        order=Order(tenant_weights=_weights(config)),
        calendar=config.windows.calendar(),
        on_infeasible=OnInfeasible(config.admission.infeasible),
    )


def hold(config: Config, settings: SchedulerSettings | None = None) -> Hold | None:
    """None: nothing ever waits for a window or for an outside signal."""
    settings = settings or SchedulerSettings()
    rights = {config.windows.outside, *(tier.outside for tier in config.tiers.values() if tier.offered)}
    if "hold" not in rights and config.windows.signal is None:
        return None
    return Hold(
        config.windows.calendar(),
        settings.hold_work_margin,
        settings.hold_reserve_seconds,
        outside=Outside(config.windows.outside),
        tiers=_tiers(config),
        tenant_weights=_weights(config),
    )


def _tiers(config: Config) -> dict[str, TierTerms]:
    """Of those that are not offered any more too: batches of them may still be running."""
    return {name: TierTerms(tier.weight, Outside(tier.outside)) for name, tier in config.tiers.items()}


def _weights(config: Config) -> dict[str, float]:
    return {tenant.name: tenant.weight for tenant in config.tenants}
