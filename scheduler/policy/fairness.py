"""How much of the engines each tenant has had, against its share."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from scheduler.policy.ranking import shares

KEPT_SECONDS_MAX = 4 * 3600.0
"""What a tenant can be ahead or behind at most: what was long ago is not made up for without end."""


@dataclass(slots=True)
class Accounts:
    """`ahead` is the seconds of engine time that a tenant has had beyond its share (negative: fewer) while it had work
    to do. Together they are zero. Who has no work is forgotten: a share is not saved up.
    """

    ahead: dict[str, float] = field(default_factory=dict)

    def settle(
        self,
        served: Mapping[str, float],
        *,
        able: Collection[str],
        present: Collection[str],
        weights: Mapping[str, float],
    ) -> None:
        """`served` are the engine seconds that each tenant's lines took since the last call. Shares are between those
        that are `able` to run now: who only waits for a window neither gains nor loses. Who is not `present` any more
        is forgotten."""
        total = sum(served.get(tenant, 0.0) for tenant in able)
        for tenant, share in shares(able, weights).items():
            change = served.get(tenant, 0.0) - share * total
            self.ahead[tenant] = max(-KEPT_SECONDS_MAX, min(KEPT_SECONDS_MAX, self.ahead.get(tenant, 0.0) + change))
        for tenant in self.ahead.keys() - set(present):
            del self.ahead[tenant]
        owed = sum(self.ahead.values())
        for tenant, share in shares(self.ahead, weights).items():
            self.ahead[tenant] -= share * owed
