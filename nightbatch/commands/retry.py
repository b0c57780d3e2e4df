"""`nightbatch retry BATCH`: run the lines again that failed, were cut off, or answered with broken JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from nightbatch import exits
from nightbatch.commands.options import JsonOption, KeyOption, UrlOption, connect, console, printer
from nightbatch.commands.submit import deadline, finish, wait_for


def retry(
    batch_id: Annotated[str, typer.Argument(metavar="BATCH", help="Id of a batch that has ended.")],
    where: Annotated[
        list[str],
        typer.Option(
            help="Which lines: error, expired, cancelled, length, empty, refusal, content_filter, invalid-json, "
            "schema-mismatch; repeatable."
        ),
    ],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="FIELD=VALUE put into each body; dots go deeper, values are JSON or text."),
    ] = None,
    window: Annotated[str | None, typer.Option(help="Completion window. Default: that of the batch.")] = None,
    by: Annotated[str | None, typer.Option(metavar="TIME", help="Deadline by the clock, as for submit.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many lines it would be.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until it ends, then download the results.")] = False,
    output: Annotated[Path, typer.Option(help="Folder for the results (with --wait).")] = Path(),
    as_json: JsonOption = False,
    url: UrlOption = None,
    api_key: KeyOption = None,
) -> None:
    """Run some lines of an ended batch again, as a batch of their own. Exit codes as for submit."""
    asked: dict[str, Any] = {"where": where, "set": parse_changes(changes or [])}
    if window is not None:
        asked["completion_window"] = window
    if by is not None:
        asked["deadline_at"] = deadline(by)
    client = connect(url, api_key)
    out = printer()
    plan = client.retry_plan(batch_id, asked)
    if dry_run:
        if as_json:
            print(json.dumps(plan, indent=2))
            return
        out.print(f"{plan['lines']:,} lines of {batch_id} would run again", markup=False)
        _print_notes(plan)
        return
    batch = client.retry(batch_id, asked)
    if as_json:
        print(batch.model_dump_json(indent=2))
        return
    out.print(f"{batch.id} submitted: {plan['lines']:,} lines of {batch_id}", markup=False)
    _print_notes(plan)
    if not wait:
        out.print(f"see it with: nightbatch status {batch.id}", markup=False)
        out.print(f"all together, once it has ended: nightbatch results {batch_id} --merged", markup=False)
        return
    ended, run_seconds = wait_for(client, batch, console())
    raise typer.Exit(finish(client, ended, output, run_seconds))


def _print_notes(plan: dict[str, Any]) -> None:
    for note in plan["notes"]:
        printer().print(f"  {note}", markup=False)


def parse_changes(pairs: list[str]) -> dict[str, Any]:
    wrong = [pair for pair in pairs if not pair.partition("=")[0] or "=" not in pair]
    if wrong:
        raise exits.UsageError(f"--set {wrong[0]}: write it as FIELD=VALUE, such as max_tokens=1024")
    return {name: _value(text) for name, text in (pair.split("=", 1) for pair in pairs)}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
