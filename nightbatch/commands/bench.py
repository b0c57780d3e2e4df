"""`nightbatch bench NAME`: the benchmarks behind every figure in the documents."""

from __future__ import annotations

import importlib
from typing import Annotated

import typer

from nightbatch import exits
from nightbatch.commands.options import printer


def bench(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Benchmark to run; none lists them.")] = None,
) -> None:
    """Run a benchmark; without a name list them. Its own flags: nightbatch bench NAME --help."""
    # By name only: benchmarks stand above this package and import it, never the other way round.
    known: dict[str, str] = importlib.import_module("benchmarks").names()
    if name is None or name in {"-h", "--help", "list"}:
        out = printer()
        out.print("usage: nightbatch bench NAME [flags]        nightbatch bench NAME --help\n", markup=False)
        for one, what in known.items():
            out.print(f"  {one:<14} {what}", markup=False)
        return
    if name not in known:
        raise exits.UsageError(f"no benchmark {name}; there are {', '.join(known)}")
    raise typer.Exit(importlib.import_module(f"benchmarks.{name}").main(context.args))
