"""The first lines of `nightbatch serve`: what runs where, and what is not set."""

from __future__ import annotations

from importlib.metadata import version

from nightbatch.config import Config
from nightbatch.engines import Fleet


def banner(config: Config, fleet: Fleet, url: str) -> list[str]:
    """One fact a line, for people; written to standard output before the engines are ready."""
    sections = {
        f"Nightbatch {version('nightbatch')}": [f"{url}/v1"],
        "models": fleet.models,
        "plan": fleet.plan,
        "data": [str(config.store.folder)],
        "cleaned up": fleet.ended,
        "windows": ["no off-peak window is set: batches run at any hour"],
        "API keys": [] if config.tenants else ["none are configured: whoever reaches this port is served"],
    }
    width = max(len(title) for title in sections) + 2
    return [
        f"{title if number == 0 else '':<{width}}{line}"
        for title, lines in sections.items()
        for number, line in enumerate(lines)
    ]


def print_banner(config: Config, fleet: Fleet, url: str) -> None:
    for line in banner(config, fleet, url):
        print(line, flush=True)
