"""How the engines are fed, in words, from what the server says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def sentences(found: Mapping[str, Any]) -> list[str]:
    """One for each engine of which something is known."""
    told = [(engine["name"], _engine(engine)) for engine in found["data"]]
    return [f"engine {name}: {text}" for name, text in told if text]


def warnings(found: Mapping[str, Any]) -> list[str]:
    fronts: Sequence[Mapping[str, Any]] = [*(engine["front"] for engine in found["data"]), found["server"]]
    return [f"warning: {front['warning']}" for front in fronts if front["warning"]]


def _engine(engine: Mapping[str, Any]) -> str:
    parts = []
    if engine["busy_share"] is not None:
        parts.append(f"busy {engine['busy_share']:.0%} of the time in which lines waited")
    if engine["running_mean"] is not None:
        slots = f" of {engine['slots']}" if engine["slots"] else ""
        parts.append(f"{engine['running_mean']:.1f}{slots} requests at once")
    front = engine["front"]
    if front["ms_per_request"] is not None:
        cost = f"{front['ms_per_request']:.1f} ms of CPU for a request"
        parts.append(f"its front takes {cost}, {front['core_share']:.0%} of a core")
    return ", ".join(parts)
