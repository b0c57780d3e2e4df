"""What `POST /batches` may say: every check that needs no more than the body, with OpenAI's words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from engine.protocol import CHAT_COMPLETIONS, COMPLETIONS, EMBEDDINGS, RERANK, RESPONSES, SCORE
from server.errors import ApiError, invalid, missing, shown
from server.openai.deadline import FIELD as DEADLINE
from server.openai.deadline import read_deadline
from server.openai.expiry import check_expires_after
from server.settings import ServerSettings, Tier
from store.records import OnInvalidLine, Reuse

C = TypeVar("C", bound=StrEnum)

ENDPOINTS = (CHAT_COMPLETIONS, COMPLETIONS, RESPONSES, EMBEDDINGS, SCORE, RERANK)
METADATA = "metadata"
OUTPUT_EXPIRY = "output_expires_after"
ON_INVALID_LINE = "on_invalid_line"
REUSE = "reuse"


@dataclass(frozen=True, slots=True)
class BatchParams:
    """`deadline_at` overrules the tier's seconds; what else a tier says holds all the same."""

    input_file_id: str
    endpoint: str
    completion_window: str
    tier: Tier
    metadata: Mapping[str, str] | None
    output_expires_after_seconds: int | None
    on_invalid_line: OnInvalidLine
    deadline_at: int | None
    reuse: Reuse


def parse_batch_params(body: Mapping[str, Any], settings: ServerSettings, *, now: float) -> BatchParams:
    """Unknown fields are ignored: clients of every age send some."""
    input_file_id = _required_text(body, "input_file_id")
    endpoint = _required_text(body, "endpoint")
    window = _required_text(body, "completion_window")
    if endpoint not in ENDPOINTS:
        raise invalid("endpoint", f"{shown(endpoint)} is not one of {_names(ENDPOINTS)}.")
    tier = settings.tiers.get(window)
    if tier is None:
        raise invalid("completion_window", f"{shown(window)} is not one of {_names(settings.tiers)}.")
    return BatchParams(
        input_file_id=input_file_id,
        endpoint=endpoint,
        completion_window=window,
        tier=tier,
        metadata=_metadata(body.get(METADATA), settings),
        output_expires_after_seconds=_output_expiry(body.get(OUTPUT_EXPIRY), settings),
        on_invalid_line=_choice(ON_INVALID_LINE, body.get(ON_INVALID_LINE), settings.on_invalid_line),
        deadline_at=read_deadline(body.get(DEADLINE), settings, now=now),
        reuse=_choice(REUSE, body.get(REUSE), settings.reuse),
    )


def _required_text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if value is None:
        raise missing(name)
    if not isinstance(value, str):
        raise invalid(name, f"expected a string, but got {_kind(value)}.", code="invalid_type")
    return value


def _metadata(value: object, settings: ServerSettings) -> Mapping[str, str] | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise invalid(METADATA, f"expected an object, but got {_kind(value)}.", code="invalid_type")
    if len(value) > settings.metadata_pairs_max:
        raise ApiError(
            400,
            f"Invalid '{METADATA}': too many properties. Expected at most {settings.metadata_pairs_max} pairs, but got "
            f"{len(value)} instead.",
            param=METADATA,
            code="object_above_max_properties",
        )
    for key, text in value.items():
        _check_pair(key, text, settings)
    return value


def _check_pair(key: str, text: object, settings: ServerSettings) -> None:
    if len(key) > settings.metadata_key_chars_max:
        raise invalid(
            METADATA,
            f"the key {shown(key)} has more than {settings.metadata_key_chars_max} characters.",
            code="string_above_max_length",
        )
    if not isinstance(text, str):
        raise invalid(
            METADATA, f"the value of {shown(key)} must be a string, but is {_kind(text)}.", code="invalid_type"
        )
    if len(text) > settings.metadata_value_chars_max:
        raise invalid(
            METADATA,
            f"the value of {shown(key)} has more than {settings.metadata_value_chars_max} characters.",
            code="string_above_max_length",
        )


def _output_expiry(value: object, settings: ServerSettings) -> int | None:
    if value is None:
        return settings.output_expires_seconds
    if not isinstance(value, dict):
        raise invalid(OUTPUT_EXPIRY, f"expected an object, but got {_kind(value)}.", code="invalid_type")
    names = (f"{OUTPUT_EXPIRY}.anchor", f"{OUTPUT_EXPIRY}.seconds")
    return check_expires_after(value.get("anchor"), value.get("seconds"), names=names, settings=settings)


def _choice(name: str, value: object, default: C) -> C:
    if value is None:
        return default
    if not isinstance(value, str):
        raise invalid(name, f"expected a string, but got {_kind(value)}.", code="invalid_type")
    choices = type(default)
    try:
        return choices(value)
    except ValueError:
        known = _names(tuple(choice.value for choice in choices))
        raise invalid(name, f"{shown(value)} is not one of {known}.") from None


def _names(values: Mapping[str, object] | tuple[str, ...]) -> str:
    return ", ".join(f"'{value}'" for value in values)


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "an object"
