"""`nightbatch cancel BATCH`."""

from __future__ import annotations

from typing import Annotated

import typer

from nightbatch.commands.options import JsonOption, KeyOption, UrlOption, connect, printer


def cancel(
    batch_id: Annotated[str, typer.Argument(metavar="BATCH", help="Id of the batch.")],
    as_json: JsonOption = False,
    url: UrlOption = None,
    api_key: KeyOption = None,
) -> None:
    """Stop a batch. Lines that are done keep their results."""
    batch = connect(url, api_key).cancel(batch_id)
    if as_json:
        print(batch.model_dump_json(indent=2))
        return
    out = printer()
    out.print(f"{batch.id} {batch.status}", markup=False)
    out.print(f"what is done already: nightbatch results {batch.id}", markup=False)
