"""`nightbatch results BATCH`: the result files of a batch that has ended."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nightbatch import exits
from nightbatch.commands.options import KeyOption, UrlOption, connect
from nightbatch.commands.submit import finish


def results(
    batch_id: Annotated[str, typer.Argument(metavar="BATCH", help="Id of the batch.")],
    output: Annotated[Path, typer.Option(help="Folder for the files.")] = Path(),
    url: UrlOption = None,
    api_key: KeyOption = None,
) -> None:
    """Download the results of a batch. Exit codes as for submit --wait."""
    from nightbatch.following import TERMINAL, note_of

    client = connect(url, api_key)
    batch = client.batch(batch_id)
    if batch.status not in TERMINAL:
        raise exits.UsageError(f"{batch_id} has not ended: {note_of(batch)}; its results come when it does")
    raise typer.Exit(finish(client, batch, output))
