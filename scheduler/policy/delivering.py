"""When a failed delivery is tried again, which addresses events may be sent to, and what a secret looks like. Pure."""

from __future__ import annotations

import base64
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

EVENT_TYPES = ("batch.completed", "batch.failed", "batch.expired", "batch.cancelled")
"""OpenAI's, and no others: its clients take an unknown type for something else."""

COMMAND = "on_event"
"""The name of the local command among the targets."""

SECRET_PREFIX = "whsec_"  # noqa: S105 (what secrets begin with)

GIVE_UP_SECONDS = 72 * 3600.0
"""OpenAI's own limit (its webhook guide)."""

PUBLIC_IPV6 = IPv6Network("2000::/3")
"""All that is given out for use on the Internet; Python takes some of the rest for global."""

NAT64 = IPv6Network("64:ff9b::/96")
METADATA = frozenset({"168.63.129.16"})
"""Public by number, yet a cloud's own service for its machines (Azure). Those of other clouds are not public."""

WAIT_SECONDS_MIN = 5.0
WAIT_SECONDS_MAX = 3600.0


def next_attempt_at(attempts: int, *, created_at: float, now: float, chance: float) -> float | None:
    """When to try again after `attempts` tries; None gives up. `chance` (0 to 1) spreads targets that failed together.

    Doubling waits from 5 s to an hour, each up to a quarter shorter, and never beyond 72 hours after the event.
    """
    if now - created_at >= GIVE_UP_SECONDS:
        return None
    wait = min(WAIT_SECONDS_MAX, WAIT_SECONDS_MIN * 2.0 ** min(max(attempts - 1, 0), 30))
    return min(now + wait * (1 - chance / 4), created_at + GIVE_UP_SECONDS)


def address_refusal(text: str) -> str | None:
    """Why nothing is sent to this address unless its target says `allow_private`; None for a public one.

    What an IPv6 address carries inside (mapped, 6to4, Teredo, NAT64) counts as itself.
    """
    address = ip_address(text.partition("%")[0])
    inner = _inside(address)
    if inner is not None:
        return address_refusal(str(inner))
    for name in ("loopback", "link_local", "multicast", "unspecified", "private", "reserved"):
        if getattr(address, f"is_{name}"):
            return f"{address} is a {name.replace('_', '-')} address"
    if str(address) in METADATA:
        return f"{address} is a metadata address"
    is_public = address.is_global and (isinstance(address, IPv4Address) or address in PUBLIC_IPV6)
    return None if is_public else f"{address} is not a public address"


def secret_problem(secret: str) -> str | None:
    """Why a signing secret cannot be used: it is `whsec_` and base64, or any other text."""
    if not secret:
        return "it is empty"
    if secret != secret.strip():
        return "it begins or ends with white space"
    if secret.startswith(SECRET_PREFIX):
        try:
            key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
        except ValueError:
            return f"what follows {SECRET_PREFIX} is not base64"
        return None if key else f"nothing follows {SECRET_PREFIX}"
    return None


def _inside(address: IPv4Address | IPv6Address) -> IPv4Address | None:
    if isinstance(address, IPv4Address):
        return None
    if address.teredo is not None:
        return address.teredo[1]
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour
