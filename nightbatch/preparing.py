"""Embedded models made ready with something to look at: 20 s once, nothing afterwards."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from engine.embedded import EmbeddedModel, prepare, prepared
from nightbatch.commands.progress import bar


def prepare_with_progress(model: EmbeddedModel, screen: Console | None = None) -> Path:
    """The folder that vLLM can serve. Blocks; raises engine.embedded.EmbeddedError."""
    folder = prepared(model)
    if folder is None:
        with bar(screen or Console(stderr=True), f"prepare {model.name}") as report:
            folder = prepare(model, lambda share, what: report(round(100 * share), 100, what))
    return folder
