"""`nightbatch results BATCH`: the result files of a batch that has ended."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nightbatch import exits
from nightbatch.commands.options import KeyOption, UrlOption, connect, console, printer
from nightbatch.commands.progress import bar, mib
from nightbatch.commands.submit import finish

if TYPE_CHECKING:
    from nightbatch.client import Client

POLL_SECONDS = 1.0


def results(
    batch_id: Annotated[str, typer.Argument(metavar="BATCH", help="Id of the batch.")],
    output: Annotated[Path, typer.Option(help="Folder for the files.")] = Path(),
    follow: Annotated[
        bool, typer.Option("--follow", help="Print the lines of a running batch as they come, then do the rest.")
    ] = False,
    merged: Annotated[
        bool, typer.Option("--merged", help="One file: the batch and its retries, each custom_id once.")
    ] = False,
    url: UrlOption = None,
    api_key: KeyOption = None,
) -> None:
    """Download the results of a batch. Exit codes as for submit --wait."""
    from nightbatch.following import TERMINAL, note_of

    client = connect(url, api_key)
    if follow:
        _print_as_they_come(client, batch_id)
    batch = client.batch(batch_id)
    if batch.status not in TERMINAL:
        raise exits.UsageError(f"{batch_id} has not ended: {note_of(batch)}; its results come when it does")
    if merged:
        _merge(client, batch_id, output)
        return
    raise typer.Exit(finish(client, batch, output))


def _merge(client: Client, batch_id: str, folder: Path) -> None:
    """The newest success of each line, else its newest error."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{batch_id}_merged.jsonl"
    with bar(console(), "download") as report:
        client.merged(batch_id, "all", path, lambda got: report(got, 0, mib(got)))
    printer().print(f"results: {path}", markup=False)


def _print_as_they_come(client: Client, batch_id: str) -> None:
    """Each result once, until the batch has ended and all are printed."""
    from nightbatch.following import TERMINAL

    cursor = None
    while True:
        page = client.live_results(batch_id, cursor)
        if page is None:
            return
        sys.stdout.write(page.lines)
        sys.stdout.flush()
        if not page.lines:
            if page.status in TERMINAL:
                return
            time.sleep(POLL_SECONDS)
        cursor = page.cursor
