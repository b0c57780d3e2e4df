"""Telling a repeated create from a second one, so that a retry never runs a file twice.

OpenAI's clients send no key of their own; they say only that a request is a repetition (`x-stainless-retry-count`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from server.errors import NO_RETRY, ApiError, invalid
from server.settings import ServerSettings
from store.records import BatchRecord

HEADER = "idempotency-key"
FIELD = "idempotency_key"
RETRY_COUNT_HEADER = "x-stainless-retry-count"

_canonical = msgspec.json.Encoder(order="sorted")


@dataclass(frozen=True, slots=True)
class Repetition:
    """`key` is the client's own, None without one. `digest` stands for what is asked: the body without its key, however
    its fields are ordered. `is_repeat`: the client says that it has sent this before."""

    key: str | None
    digest: str
    is_repeat: bool


def read_repetition(headers: Mapping[str, str], body: Mapping[str, Any], settings: ServerSettings) -> Repetition:
    named = body.get(FIELD)
    if named is not None and not isinstance(named, str):
        raise invalid(FIELD, "expected a string.", code="invalid_type")
    key = headers.get(HEADER, named)
    if named is not None and key != named:
        raise invalid(FIELD, f"the body and the header '{HEADER}' name different keys.")
    if key is not None and not 0 < len(key) <= settings.idempotency_key_chars_max:
        limit = settings.idempotency_key_chars_max
        raise invalid(FIELD, f"a key has 1 to {limit} characters (idempotency_key_chars_max), not {len(key)}.")
    asked = {name: value for name, value in body.items() if name != FIELD}
    retries = headers.get(RETRY_COUNT_HEADER, "0")
    return Repetition(
        key,
        hashlib.sha256(_canonical.encode(asked)).hexdigest(),
        retries.isascii() and retries.isdigit() and int(retries[:9]) > 0,
    )


def check_same(record: BatchRecord, repetition: Repetition) -> None:
    """409 when the key has been used for another request."""
    if repetition.key is not None and record.request_digest != repetition.digest:
        raise ApiError(
            409,
            f"The idempotency key was used before, for batch {record.id} and with another body. Use a new key for a "
            "new request.",
            param=FIELD,
            code="idempotency_key_reused",
            headers=NO_RETRY,
        )
