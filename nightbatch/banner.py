"""The first lines of `nightbatch serve`: what runs where, and what is not set."""

from __future__ import annotations

from nightbatch.config import Config
from nightbatch.engines import Fleet


def banner(config: Config, fleet: Fleet, url: str) -> list[str]:
    """One fact a line, for people; written to standard output before the engines are ready."""
    lines = [f"Nightbatch   {url}/v1"]
    lines += [f"             {line}" for line in fleet.lines]
    lines.append(f"data         {config.store.folder}")
    lines.append("windows      no off-peak window is set: batches run at any hour")
    if not config.tenants:
        lines.append("API keys     none are configured: everyone who reaches this port is served")
    return lines


def print_banner(config: Config, fleet: Fleet, url: str) -> None:
    for line in banner(config, fleet, url):
        print(line, flush=True)
