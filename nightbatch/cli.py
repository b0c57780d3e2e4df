"""The `nightbatch` command: names its subcommands and turns expected failures into one line and an exit code.

Only typer and rich are imported here, so that help answers at once; each command imports what it needs when it runs.
"""

from __future__ import annotations

import sys

import typer

from nightbatch import exits
from nightbatch.commands import (
    bench,
    cancel,
    compare,
    demo,
    doctor,
    models,
    pausing,
    prepare,
    results,
    retry,
    serve,
    status,
    submit,
    validate,
    windows,
)

app = typer.Typer(
    name="nightbatch",
    help="Batch inference on your own GPUs, in their idle hours, behind the OpenAI Files and Batches API.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

WITH_REST = {"allow_extra_args": True, "ignore_unknown_options": True}

app.command("serve")(serve.serve)
app.command("submit")(submit.submit)
app.command("status")(status.status)
app.command("results")(results.results)
app.command("retry")(retry.retry)
app.command("cancel")(cancel.cancel)
app.command("pause")(pausing.pause)
app.command("resume")(pausing.resume)
app.command("validate")(validate.validate)
app.command("compare")(compare.compare)
app.command("models")(models.models)
app.add_typer(windows.app, name="windows")
app.command("doctor")(doctor.doctor)
app.command("prepare")(prepare.prepare)
app.command("demo")(demo.demo)
app.command("bench", context_settings={**WITH_REST, "help_option_names": []})(bench.bench)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"nightbatch {version('nightbatch')}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", help="Show the version and exit.", is_eager=True, callback=_show_version
    ),
) -> None:
    pass


def run() -> int:
    """The exit code of the command line in `sys.argv`."""
    try:
        app(prog_name="nightbatch")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        return exits.INTERRUPTED
    except BrokenPipeError:
        # `nightbatch status | head`: whoever reads has seen enough.
        sys.stderr.close()
        return exits.OK
    except Exception as error:
        line = exits.expected(error)
        if line is None:
            raise
        print(f"nightbatch: {line}", file=sys.stderr)
        return exits.USAGE
    return exits.OK
