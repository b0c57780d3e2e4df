"""Which tenant an API key belongs to."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from types import MappingProxyType

DEFAULT_TENANT = "default"
DIGEST_HEX_CHARS = 64


class Tenants:
    """Keys are known by their SHA-256 only. With no keys configured everyone is the tenant `default`."""

    def __init__(self, digests: Mapping[str, str] = MappingProxyType({})) -> None:
        """`digests` maps the SHA-256 of a key, in hex, to its tenant."""
        for digest, tenant in digests.items():
            if len(digest) != DIGEST_HEX_CHARS or not all(char in "0123456789abcdef" for char in digest):
                raise ValueError(f"the key of tenant {tenant!r} must be a SHA-256 in 64 lower-case hex digits")
            if not tenant:
                raise ValueError("a tenant's name must not be empty")
        self._tenants = [(bytes.fromhex(digest), tenant) for digest, tenant in digests.items()]

    @classmethod
    def from_keys(cls, keys: Mapping[str, str]) -> Tenants:
        """`keys` maps API keys in clear to tenants."""
        return cls({hashlib.sha256(key.encode()).hexdigest(): tenant for key, tenant in keys.items()})

    @property
    def open(self) -> bool:
        """True when no keys are configured."""
        return not self._tenants

    def tenant_of(self, key: str | None) -> str | None:
        """The tenant of `key`, or None when it is missing or unknown. Takes the same time whichever key matches."""
        if self.open:
            return DEFAULT_TENANT
        digest = hashlib.sha256((key or "").encode("utf-8", "surrogatepass")).digest()
        found: str | None = None
        for known, tenant in self._tenants:
            if hmac.compare_digest(known, digest):
                found = tenant
        return found
