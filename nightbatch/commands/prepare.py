"""`nightbatch prepare`: the embedded models as folders that vLLM can load, so that the first start need not wait."""

from __future__ import annotations

from rich.console import Console

from nightbatch import exits
from nightbatch.commands.options import console


def prepare() -> None:
    """Put the two embedded models into the user's cache (once, 20 s). `serve` does the same when they are missing."""
    prepare_embedded(console())


def prepare_embedded(screen: Console) -> None:
    from engine.embedded import EMBEDDED, EmbeddedError
    from nightbatch.preparing import prepare_with_progress

    for model in EMBEDDED.values():
        try:
            folder = prepare_with_progress(model, screen)
        except EmbeddedError as error:
            raise exits.UsageError(str(error)) from error
        screen.print(f"{model.name}: {folder}", markup=False)
