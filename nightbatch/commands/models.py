"""`nightbatch models`: what the server serves."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.table import Table

from nightbatch.commands.options import JsonOption, KeyOption, UrlOption, connect, tabulator

EXTRAS = ("kind", "revision", "status", "aliases")
"""Fields of Nightbatch's own, shown where the server sends them."""


def models(
    as_json: JsonOption = False,
    url: UrlOption = None,
    api_key: KeyOption = None,
    wide: Annotated[bool, typer.Option("--wide", help="Do not shorten long values.")] = False,
) -> None:
    """List the models of the server."""
    found = connect(url, api_key).models()
    if as_json:
        print(json.dumps([model.model_dump() for model in found], indent=2))
        return
    shown = [name for name in EXTRAS if any((model.model_extra or {}).get(name) for model in found)]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("model", *shown, "owned by"):
        table.add_column(name, no_wrap=True, overflow="fold" if wide else "ellipsis")
    for model in found:
        extra = model.model_extra or {}
        table.add_row(model.id, *(_text(extra.get(name)) for name in shown), model.owned_by)
    if not found:
        table.add_row("none are ready yet")
    tabulator().print(table)


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
