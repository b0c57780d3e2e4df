"""`nightbatch prepare`: the embedded models as folders that vLLM can load, so that the first start need not wait."""

from __future__ import annotations

from rich.console import Console

from nightbatch import exits
from nightbatch.commands.options import console
from nightbatch.commands.progress import bar


def prepare() -> None:
    """Put the two embedded models into the user's cache (once, 20 s). `serve` does the same when they are missing."""
    prepare_embedded(console())


def prepare_embedded(screen: Console) -> None:
    from engine.embedded import EMBEDDED, EmbeddedError, prepared
    from engine.embedded import prepare as prepare_model

    for model in EMBEDDED.values():
        try:
            folder = prepared(model)
            if folder is None:
                with bar(screen, "prepare") as report:
                    folder = prepare_model(model, lambda share, what: report(round(100 * share), 100, what))
        except EmbeddedError as error:
            raise exits.UsageError(str(error)) from error
        screen.print(f"{model.name}: {folder}", markup=False)
