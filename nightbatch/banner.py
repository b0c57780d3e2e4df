"""The first lines of `nightbatch serve`: what runs where, and what is not set."""

from __future__ import annotations

import time
from datetime import datetime
from importlib.metadata import version

from nightbatch.config import Config
from nightbatch.config.windows import WindowsSection
from nightbatch.engines import Fleet


def banner(config: Config, fleet: Fleet, url: str, *, now: float) -> list[str]:
    """One fact a line, for people; written to standard output before the engines are ready."""
    sections = {
        f"Nightbatch {version('nightbatch')}": [f"{url}/v1"],
        "models": fleet.models,
        "plan": fleet.plan,
        "data": [str(config.store.folder)],
        "cleaned up": fleet.ended,
        "windows": _windows(config.windows, now),
        "API keys": [] if config.tenants else ["none are configured: whoever reaches this port is served"],
    }
    width = max(len(title) for title in sections) + 2
    return [
        f"{title if number == 0 else '':<{width}}{line}"
        for title, lines in sections.items()
        for number, line in enumerate(lines)
    ]


def _windows(section: WindowsSection, now: float) -> list[str]:
    """What holds now, until when, and what batches do outside."""
    calendar = section.calendar()
    if calendar.is_always_open:
        return ["no off-peak window is set: batches run at any hour"]
    outside = "batches run outside too (fill)" if section.outside == "fill" else "batches wait outside (hold)"
    found = calendar.open_at(now)
    if found is not None:
        closes = datetime.fromtimestamp(found.end_at, calendar.zone)
        return [f"'{found.name}' is open until {closes:%a %H:%M} {section.timezone}; {outside}"]
    opens_at = calendar.next_opening(now)
    if opens_at is None:
        return [f"none opens within a year; {outside}"]
    return [f"peak time until {datetime.fromtimestamp(opens_at, calendar.zone):%a %H:%M} {section.timezone}; {outside}"]


def print_banner(config: Config, fleet: Fleet, url: str) -> None:
    for line in banner(config, fleet, url, now=time.time()):
        print(line, flush=True)
