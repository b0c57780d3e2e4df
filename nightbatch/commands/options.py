"""Flags that several commands share, and the way from them to a server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from nightbatch.client import Client

UrlOption = Annotated[
    str | None,
    typer.Option("--url", help="Server to talk to. Else NIGHTBATCH_URL, OPENAI_BASE_URL, http://127.0.0.1:8000."),
]
KeyOption = Annotated[
    str | None, typer.Option("--api-key", help="API key. Else NIGHTBATCH_API_KEY. Not needed where none is configured.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", help="Configuration file. Else NIGHTBATCH_CONFIG, ./nightbatch.toml, the user's own."),
]

REDIRECTED_COLUMNS = 240


def connect(url: str | None, api_key: str | None) -> Client:
    from nightbatch.client import Client
    from nightbatch.target import Target

    return Client(Target.find(url, api_key))


def console() -> Console:
    """For people: progress and notes go to standard error, results to standard output."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def printer() -> Console:
    return Console(highlight=False, soft_wrap=True)


def tabulator() -> Console:
    """For tables: a file or a pipe has no width that they must fit into."""
    screen = Console(highlight=False)
    return screen if screen.is_terminal else Console(highlight=False, width=REDIRECTED_COLUMNS)
