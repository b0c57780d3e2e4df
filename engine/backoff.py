"""When to start a dead engine again, and when to call it a crash loop. Pure: times and chance come in."""

from __future__ import annotations

from dataclasses import dataclass

DOUBLINGS_MAX = 32
"""Far beyond every longest wait; without it the power of a long outage overflows."""


@dataclass(frozen=True, slots=True)
class BackoffPolicy:
    """Waits grow from `first_seconds` by `factor` up to `longest_seconds`; chance may take `jitter` of one off.

    `deaths_max` deaths within `window_seconds` are a crash loop; from then on every wait is the longest.
    """

    first_seconds: float = 1.0
    factor: float = 2.0
    longest_seconds: float = 60.0
    jitter: float = 0.2
    deaths_max: int = 3
    window_seconds: float = 600.0


ENGINE_BACKOFF = BackoffPolicy()
REMOTE_BACKOFF = BackoffPolicy(first_seconds=0.5, longest_seconds=10.0)
"""A probe of an upstream is cheap, and it comes back without being asked to: look more often."""

BLOCKED_BACKOFF = BackoffPolicy(longest_seconds=15.0, deaths_max=1_000)
"""A look at who holds the memory is cheap, and the night is short."""


def delay_seconds(policy: BackoffPolicy, deaths: int, chance: float) -> float:
    """The wait before the next start after `deaths` recent deaths (at least one); `chance` is in 0 to 1."""
    if deaths >= policy.deaths_max:
        wait = policy.longest_seconds
    else:
        doublings = min(deaths - 1, DOUBLINGS_MAX)
        wait = min(policy.first_seconds * policy.factor**doublings, policy.longest_seconds)
    return wait * (1.0 - policy.jitter * chance)


@dataclass(frozen=True, slots=True)
class CrashHistory:
    """The recent deaths of one engine (a failed start is one). `streak` counts deaths with no quiet window between."""

    deaths_at: tuple[float, ...] = ()
    streak: int = 0

    def after_death(self, at: float, policy: BackoffPolicy) -> CrashHistory:
        recent = tuple(death for death in self.deaths_at if at - death < policy.window_seconds)
        return CrashHistory((*recent, at), self.streak + 1 if recent else 1)

    def is_crash_loop(self, policy: BackoffPolicy) -> bool:
        return len(self.deaths_at) >= policy.deaths_max
