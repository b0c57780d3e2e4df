"""The quality of a batch's results as lines for people, with what to do about it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

GROUPS_SHOWN_MAX = 8
LABELS_SHOWN_MAX = 8
ROOM_TOKENS_MIN = 1024
MESSAGE_SHOWN_CHARS_MAX = 120

TOLD = {
    "length": "cut by max_tokens",
    "empty": "empty",
    "refusal": "refusals",
    "content_filter": "stopped by a content filter",
    "invalid-json": "not JSON, though asked for",
    "schema-mismatch": "JSON that does not match its schema",
}

HELP = {
    "length": "were cut by max_tokens",
    "invalid-json": "are not the JSON that was asked for",
    "schema-mismatch": "do not match the schema asked for",
    "empty": "are empty",
    "expired": "did not run before the deadline",
    "cancelled": "did not run, the batch was cancelled",
    "error": "failed",
}
"""What a retry can help with."""


def rows(batch: Any) -> list[tuple[str, str]]:
    """Name and text of each row; none while nothing is known, or on a server that does not say."""
    quality = getattr(batch, "quality", None)
    if not isinstance(quality, Mapping) or not quality.get("lines"):
        return []
    found = [
        ("answers", _answers(quality)),
        ("finish", ", ".join(f"{count:,} {reason}" for reason, count in quality["finish_reasons"].items())),
        ("length", _lengths(quality["output_tokens"])),
        ("labels", "\n".join(f"{name}: {_labels(labels)}" for name, labels in quality["labels"].items())),
        ("causes", _causes(quality)),
    ]
    return [(name, text) for name, text in found if text]


def advice(batch: Any, terminal: bool) -> list[str]:
    """The commands that would run lines again which deserve it, once the batch has ended."""
    quality = getattr(batch, "quality", None)
    if not terminal or not isinstance(quality, Mapping):
        return []
    counts = {**quality.get("answers", {}), **quality.get("failed", {})}
    lines = []
    refused = _refused(quality)
    if refused:
        lines.append(
            f"{refused:,} {'lines were' if refused != 1 else 'line was'} refused, and would be again as they are:"
        )
        lines.append(f"  nightbatch retry {shlex.quote(batch.id)} --where error --set FIELD=VALUE")
    for name, what in HELP.items():
        count = counts.get(name, 0) - (refused if name == "error" else 0)
        if count > 0:
            thing = "lines" if name in quality["failed"] else "answers"
            lines.append(f"{count:,} {thing if count != 1 else thing[:-1]} {_singular(what, count)}:")
            changes = f" --set max_tokens={_roomier(quality)}" if name == "length" else ""
            lines.append(f"  nightbatch retry {shlex.quote(batch.id)} --where {name}{changes}")
    return lines


def _roomier(quality: Mapping[str, Any]) -> int:
    """At least twice what the longest answer had."""
    longest = (quality["output_tokens"] or {}).get("max", 0)
    limit = ROOM_TOKENS_MIN
    while limit < 2 * longest:
        limit *= 2
    return limit


def _refused(quality: Mapping[str, Any]) -> int:
    """Lines whose answer was a 4xx: the same request gets the same answer."""
    return sum(group["count"] for group in quality["error_groups"] if 400 <= (group["status_code"] or 0) < 500)


def _singular(what: str, count: int) -> str:
    if count != 1:
        return what
    for many, one in (("were ", "was "), ("are not", "is not"), ("are ", "is "), ("do not", "does not")):
        if what.startswith(many):
            return one + what[len(many) :]
    return what


def _answers(quality: Mapping[str, Any]) -> str:
    told = [f"{count:,} {TOLD.get(name, name)}" for name, count in quality["answers"].items()]
    if quality["json_answers"]:
        told.insert(0, f"{quality['json_answers']:,} in JSON")
    return "\n".join(told)


def _lengths(lengths: Mapping[str, int] | None) -> str:
    if lengths is None:
        return ""
    return (
        f"{lengths['p50']:,} tokens (p50), {lengths['p90']:,} (p90), {lengths['p99']:,} (p99), {lengths['max']:,} (max)"
    )


def _labels(labels: Mapping[str, int]) -> str:
    shown = [f"{label} {count:,}" for label, count in list(labels.items())[:LABELS_SHOWN_MAX]]
    if len(labels) > LABELS_SHOWN_MAX:
        shown.append(f"{len(labels) - LABELS_SHOWN_MAX} more")
    return ", ".join(shown)


def _causes(quality: Mapping[str, Any]) -> str:
    groups = quality["error_groups"]
    told = []
    for group in groups[:GROUPS_SHOWN_MAX]:
        status = f"{group['status_code']} " if group["status_code"] else ""
        message = group["message"]
        if len(message) > MESSAGE_SHOWN_CHARS_MAX:
            message = message[:MESSAGE_SHOWN_CHARS_MAX] + "..."
        examples = ", ".join(
            f"{line} ({custom_id})" if custom_id else str(line)
            for line, custom_id in zip(group["lines"], group["custom_ids"], strict=False)
        )
        told.append(f"{group['count']:,} x {status}{group['code'] or ''}: {message}\n  such as line {examples}")
    rest = sum(group["count"] for group in groups[GROUPS_SHOWN_MAX:]) + quality["other_errors"]
    if rest:
        told.append(f"{rest:,} x other")
    return "\n".join(told)
