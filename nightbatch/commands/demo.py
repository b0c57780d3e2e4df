"""`nightbatch demo`: what `make demo` runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nightbatch import exits
from nightbatch.commands.options import console


def demo(
    results: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("demo-results"),
    data: Annotated[Path, typer.Option(help="Data folder of the demo's server.")] = Path("nightbatch-data"),
    simulated: Annotated[bool, typer.Option("--simulated", help="With the simulated engine: no model is run.")] = False,
) -> None:
    """Start a server, run the two example batches, show the results, stop the server.

    Exit code: 0 only if every request came back exactly once and succeeded.
    """
    from nightbatch import demo as job
    from nightbatch.child_server import ServerFailed

    screen = console()
    if not simulated:
        from nightbatch.commands.prepare import prepare_embedded

        prepare_embedded(screen)
    try:
        code = job.run(screen, results=results, data=data, simulated=simulated)
    except ServerFailed as error:
        raise exits.UsageError(str(error)) from error
    raise typer.Exit(code)
