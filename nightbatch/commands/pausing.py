"""`nightbatch pause BATCH` and `nightbatch resume BATCH`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from nightbatch.commands.options import JsonOption, KeyOption, UrlOption, connect, printer

if TYPE_CHECKING:
    from openai.types import Batch

BatchArgument = Annotated[str, typer.Argument(metavar="BATCH", help="Id of the batch.")]


def pause(
    batch_id: BatchArgument, as_json: JsonOption = False, url: UrlOption = None, api_key: KeyOption = None
) -> None:
    """Take a batch from the engines until it is resumed. Nothing is lost; its deadline still counts."""
    _show(connect(url, api_key).pause(batch_id), as_json, "paused", "go on with it: nightbatch resume")


def resume(
    batch_id: BatchArgument, as_json: JsonOption = False, url: UrlOption = None, api_key: KeyOption = None
) -> None:
    """Let a paused batch go on."""
    _show(connect(url, api_key).resume(batch_id), as_json, "resumed", "see it: nightbatch status")


def _show(batch: Batch, as_json: bool, done: str, hint: str) -> None:
    if as_json:
        print(batch.model_dump_json(indent=2))
        return
    out = printer()
    out.print(f"{batch.id} {done} ({batch.status})", markup=False)
    out.print(f"{hint} {batch.id}", markup=False)
