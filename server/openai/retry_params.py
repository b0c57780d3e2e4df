"""What `POST /batches/{id}/retry` may say, and what `set` does to a line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from engine.protocol import CHAT_COMPLETIONS
from server.errors import invalid, missing, shown
from store.answers import CONDITIONS

RESPONSES = "/v1/responses"
SET_FIELDS_MAX = 64
PATH_PARTS_MAX = 16
WHERE, SET, WINDOW, DRY_RUN = "where", "set", "completion_window", "dry_run"

OUTPUT_LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
"""One limit under three names."""


@dataclass(frozen=True, slots=True)
class RetryParams:
    where: frozenset[str]
    changes: Mapping[str, Any]
    completion_window: str | None
    dry_run: bool


def parse_retry_params(body: Mapping[str, Any]) -> RetryParams:
    window = body.get(WINDOW)
    if window is not None and not isinstance(window, str):
        raise invalid(WINDOW, "expected a string.", code="invalid_type")
    dry_run = body.get(DRY_RUN)
    if dry_run is not None and not isinstance(dry_run, bool):
        raise invalid(DRY_RUN, "expected a boolean.", code="invalid_type")
    return RetryParams(_where(body.get(WHERE)), _changes(body.get(SET)), window, bool(dry_run))


def _where(value: object) -> frozenset[str]:
    known = ", ".join(f"'{name}'" for name in CONDITIONS)
    if value is None:
        raise missing(WHERE)
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names:
        raise invalid(WHERE, f"expected an array with at least one of {known}.", code="invalid_type")
    for name in names:
        if name not in CONDITIONS:
            raise invalid(WHERE, f"{shown(name)} is not one of {known}.")
    return frozenset(names)


def _changes(value: object) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid(SET, "expected an object of fields and their values.", code="invalid_type")
    if len(value) > SET_FIELDS_MAX:
        raise invalid(SET, f"at most {SET_FIELDS_MAX} fields, but got {len(value)}.")
    for path in value:
        parts = path.split(".")
        if not all(parts) or len(parts) > PATH_PARTS_MAX:
            raise invalid(SET, f"{shown(path)} is no field: write 'a' or 'a.b', of at most {PATH_PARTS_MAX} parts.")
    return value


class Rewriter:
    """Sets fields in the bodies of lines; what is not named keeps its bytes. `notes` says what was done differently."""

    def __init__(self, changes: Mapping[str, Any], endpoint: str) -> None:
        self._changes = [(path.split("."), value) for path, value in changes.items()]
        self._endpoint = endpoint
        self.notes: set[str] = set()

    def rewrite(self, raw: bytes) -> bytes:
        if not self._changes:
            return raw
        line = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
        body = msgspec.json.decode(bytes(line["body"]), type=dict[str, msgspec.Raw])
        for path, value in self._changes:
            if path[0] in OUTPUT_LIMITS and len(path) == 1:
                self._set_limit(body, path[0], value)
            else:
                body[path[0]] = _raw(_put(body.get(path[0]), path[1:], value))
        line["body"] = msgspec.Raw(msgspec.json.encode(body))
        return msgspec.json.encode(line)

    def _set_limit(self, body: dict[str, msgspec.Raw], name: str, value: Any) -> None:
        """A line that says `max_completion_tokens` would ignore a `max_tokens` beside it."""
        used = next((limit for limit in OUTPUT_LIMITS if limit in body), None)
        wanted = name
        if self._endpoint == RESPONSES:
            wanted = "max_output_tokens"
        elif used is not None and used != "max_output_tokens" and self._endpoint == CHAT_COMPLETIONS:
            wanted = used
        elif self._endpoint != CHAT_COMPLETIONS:
            wanted = "max_tokens"
        elif name == "max_output_tokens":
            wanted = "max_completion_tokens"
        if wanted != name:
            self.notes.add(f"{name} was set as {wanted}, the limit that such lines have")
        for limit in OUTPUT_LIMITS:
            body.pop(limit, None)
        body[wanted] = _raw(value)


def _put(former: msgspec.Raw | None, path: list[str], value: Any) -> Any:
    if not path:
        return value
    whole = {} if former is None else json.loads(bytes(former))
    if not isinstance(whole, dict):
        whole = {}
    place = whole
    for part in path[:-1]:
        below = place.get(part)
        if not isinstance(below, dict):
            below = place[part] = {}
        place = below
    place[path[-1]] = value
    return whole


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(json.dumps(value, separators=(",", ":")).encode())
