"""What a request asks of its answer: JSON, perhaps of a schema, perhaps with a label out of a few."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import jsonschema_rs
import msgspec

SCHEMAS_KEPT_MAX: Final = 256
"""Compiled schemas kept; a batch whose every line has a schema of its own compiles each anew."""

LABELLED_PROPERTIES_MAX: Final = 16
PROPERTY_CHARS_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class Asked:
    """JSON was asked for. `validator` is None where any JSON will do (or the schema is none). `labelled` are the
    properties whose value is one of an enum."""

    validator: Any = None
    labelled: tuple[str, ...] = field(default=())


class _Text(msgspec.Struct):
    format: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Body(msgspec.Struct):
    response_format: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    text: _Text | None = None


_decode = msgspec.json.Decoder(_Body).decode


class AskedReader:
    """Reads bodies; one per computation, since schemas repeat within a batch."""

    def __init__(self) -> None:
        self._kept: dict[bytes, Asked | None] = {}

    def read(self, body: bytes) -> Asked | None:
        """None when no JSON is asked for."""
        if b'"response_format"' not in body and b'"format"' not in body:
            return None
        try:
            found = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        raw = found.response_format
        if raw is msgspec.UNSET:
            raw = found.text.format if found.text else msgspec.UNSET
        if raw is msgspec.UNSET:
            return None
        key = bytes(raw)
        if key not in self._kept:
            if len(self._kept) >= SCHEMAS_KEPT_MAX:
                self._kept.clear()
            self._kept[key] = _asked(key)
        return self._kept[key]


def _asked(raw: bytes) -> Asked | None:
    try:
        wanted = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(wanted, dict):
        return None
    if wanted.get("type") == "json_object":
        return Asked()
    if wanted.get("type") != "json_schema":
        return None
    nested = wanted.get("json_schema")
    schema = nested.get("schema") if isinstance(nested, dict) else wanted.get("schema")
    if not isinstance(schema, dict):
        return Asked()
    try:
        validator = jsonschema_rs.validator_for(schema, retriever=_no_retrieval)
    except (ValueError, TypeError, RecursionError, OverflowError):
        return Asked(labelled=_labelled(schema))
    return Asked(validator, _labelled(schema))


def _no_retrieval(uri: str) -> Any:
    """A schema of a client must not make this server fetch anything."""
    raise ValueError(f"{uri} is not fetched")


def _labelled(schema: Mapping[str, Any]) -> tuple[str, ...]:
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return ()
    found = [name for name, value in properties.items() if _has_enum(value, schema) and len(name) <= PROPERTY_CHARS_MAX]
    return tuple(found[:LABELLED_PROPERTIES_MAX])


def _has_enum(value: object, schema: Mapping[str, Any]) -> bool:
    if not isinstance(value, dict):
        return False
    reference = value.get("$ref")
    if isinstance(reference, str):  # as pydantic writes an Enum: {"$ref": "#/$defs/Colour"}
        folder, _, name = reference.removeprefix("#/").partition("/")
        definitions = schema.get(folder)
        value = definitions.get(name) if isinstance(definitions, dict) else None
    return isinstance(value, dict) and isinstance(value.get("enum"), list)
