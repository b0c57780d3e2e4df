"""`nightbatch submit FILE`: upload, create, and with --wait everything up to the results on disk."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from nightbatch import exits
from nightbatch.commands.options import KeyOption, UrlOption, connect, console, printer
from nightbatch.commands.progress import bar, mib
from nightbatch.commands.status import moment

if TYPE_CHECKING:
    from openai.types import Batch

    from nightbatch.client import Client

FIRST_LINE_BYTES_MAX = 64 * 1024 * 1024


def submit(
    file: Annotated[Path, typer.Argument(help="Batch input: JSONL, one request per line, or that as .gz or .zst.")],
    endpoint: Annotated[
        str | None, typer.Option(help="Endpoint of all lines. Default: the url of the first line.")
    ] = None,
    window: Annotated[str, typer.Option(help="Completion window, a tier of the server.")] = "24h",
    by: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Deadline by this machine's clock: 07:00 (the next one), 'fri 07:00' or 2026-07-01T07:00. "
            "Default: as the window says.",
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until it ends, then download the results.")] = False,
    output: Annotated[Path, typer.Option(help="Folder for the results (with --wait).")] = Path(),
    on_invalid_line: Annotated[
        str | None,
        typer.Option(
            help="What broken lines do: `fail` the batch, or be its errors (`report`). Default: the server's."
        ),
    ] = None,
    reuse: Annotated[
        str | None,
        typer.Option(
            help="Run lines that ask the same, and would get the same answer, once: within the `batch`, across the "
            "`server`'s batches, or not (`off`). Default: the server's."
        ),
    ] = None,
    metadata: Annotated[list[str] | None, typer.Option(help="KEY=VALUE kept with the batch; repeatable.")] = None,
    dry_run: Annotated[
        int | None,
        typer.Option(
            min=1, max=1000, metavar="N", help="Run only N lines from all over the file, print their answers, project."
        ),
    ] = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
) -> None:
    """Run a file of requests as one batch.

    Exit code: 0 every line succeeded (without --wait: the batch was accepted), 1 some did not, 2 wrong usage or no
    server, 3 the batch failed as a whole.
    """
    pairs = _metadata(metadata or [])
    extra = _extra(by, on_invalid_line, reuse)
    endpoint = endpoint or first_url(file)
    client = connect(url, api_key)
    screen = console()
    if dry_run is not None:
        from nightbatch.commands.dry_run import dry_run as rehearse
        from nightbatch.following import pause_reason

        def run(source: Path, more: Mapping[str, str]) -> tuple[Batch, float | None]:
            waited = False

            def look(seen: Batch) -> None:
                nonlocal waited
                waited = waited or pause_reason(seen) is not None

            sent = _send(client, source, endpoint, window, pairs | dict(more), extra, screen)
            ended, run_seconds = wait_for(client, sent, screen, look)
            return ended, None if waited else run_seconds

        raise typer.Exit(rehearse(client, file, dry_run, run))
    batch = _send(client, file, endpoint, window, pairs, extra, screen)
    if not wait:
        _announce(batch)
        printer().print(f"see it with: nightbatch status {batch.id}", markup=False)
        return
    batch, run_seconds = wait_for(client, batch, screen)
    raise typer.Exit(finish(client, batch, output, run_seconds))


def _announce(batch: Batch) -> None:
    due = getattr(batch, "deadline_at", None)
    by = f", by {moment(due, time.time())}" if due else ""
    text = f"{batch.id} submitted: {batch.endpoint}, window {batch.completion_window}{by}"
    printer().print(text, markup=False)


def first_url(file: Path) -> str:
    """The endpoint that the first line asks for: all lines of a batch have the same."""
    from store.inflating import CorruptStream, first_line

    try:
        line = first_line(file, FIRST_LINE_BYTES_MAX)
    except OSError as error:
        raise exits.UsageError(f"{file}: {error.strerror or error}") from error
    except CorruptStream as error:
        raise exits.UsageError(f"{file}: {error}") from error
    if not line.strip():
        raise exits.UsageError(f"{file}: the first line is empty; a batch input has one JSON object per line")
    try:
        value = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
        found = value["url"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise exits.UsageError(
            f'{file}: line 1 has no "url" to take the endpoint from; put the line right or give --endpoint'
        ) from error
    return str(found)


def _metadata(pairs: list[str]) -> dict[str, str]:
    wrong = [pair for pair in pairs if "=" not in pair]
    if wrong:
        raise exits.UsageError(f"--metadata {wrong[0]}: write it as KEY=VALUE")
    return dict(pair.split("=", 1) for pair in pairs)


def _extra(by: str | None, on_invalid_line: str | None, reuse: str | None) -> dict[str, object]:
    extra: dict[str, object] = {}
    if by is not None:
        extra["deadline_at"] = deadline(by)
    if on_invalid_line is not None:
        extra["on_invalid_line"] = on_invalid_line
    if reuse is not None:
        extra["reuse"] = reuse
    return extra


def deadline(text: str) -> int:
    from nightbatch.by import deadline_of

    try:
        return deadline_of(text, now=time.time())
    except ValueError as error:
        raise exits.UsageError(f"--by {error}") from error


def _send(
    client: Client,
    file: Path,
    endpoint: str,
    window: str,
    metadata: dict[str, str],
    extra: Mapping[str, object],
    screen: Console,
) -> Batch:
    size = file.stat().st_size
    with bar(screen, "upload") as report:
        uploaded = client.upload(file, lambda sent: report(sent, size, f"{mib(sent)} of {mib(size)}"))
    if uploaded.broken_lines:
        says = f"{file.name}: {uploaded.broken_lines:,} lines are broken; see them with: nightbatch validate {file}"
        screen.print(says, markup=False)
        if extra.get("on_invalid_line") != "report":
            screen.print("  to run the others all the same: --on-invalid-line report", markup=False)
    return client.create(uploaded.file.id, endpoint=endpoint, window=window, metadata=metadata, extra=extra)


def wait_for(
    client: Client, batch: Batch, screen: Console, look: Callable[[Batch], None] | None = None
) -> tuple[Batch, float]:
    """The ended batch and how long it ran, measured here: finer than the whole seconds of its stamps.

    A batch that was never seen running was over between two looks. `look` is shown the batch as often as it is seen.
    """
    from nightbatch.client import ClientError
    from nightbatch.following import done, follow, total

    running_at: float | None = None
    started_at = time.monotonic()

    def note(seen: Batch | None, text: str) -> None:
        nonlocal running_at
        if seen is not None:
            if seen.status == "in_progress" and running_at is None:
                running_at = time.monotonic()
            report(done(seen), total(seen), text)
            if look is not None:
                look(seen)

    try:
        _announce(batch)
        with bar(screen, "run") as report:
            ended = follow(client.batch, batch, note)
    except (KeyboardInterrupt, ClientError) as error:
        screen.print(f"\n{batch.id} goes on without us.", markup=False)
        screen.print(f"  see it:  nightbatch status {batch.id} --watch", markup=False)
        screen.print(f"  results: nightbatch results {batch.id}", markup=False)
        screen.print(f"  stop it: nightbatch cancel {batch.id}", markup=False)
        if isinstance(error, ClientError):
            raise
        raise typer.Exit(exits.INTERRUPTED) from error
    return ended, time.monotonic() - (running_at or started_at)


def finish(client: Client, batch: Batch, folder: Path, run_seconds: float | None = None) -> int:
    """Download what an ended batch left, print what it came to, and return the exit code."""
    from nightbatch.following import warnings_of
    from nightbatch.outcome import download, exit_code, refusals, summary

    out = printer()
    out.print(summary(batch, run_seconds), markup=False)
    for line in [*refusals(batch), *warnings_of(batch)]:
        out.print(f"  {line}", markup=False)
    if batch.output_file_id or batch.error_file_id:
        with bar(console(), "download") as report:
            files = download(client, batch, folder, lambda got: report(got, 0, mib(got)))
        if files.output:
            out.print(f"results: {files.output}", markup=False)
        if files.errors:
            out.print(f"errors:  {files.errors}", markup=False)
    return exit_code(batch)
