"""`nightbatch status [BATCH]`: what is queued, running and done."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nightbatch import exits
from nightbatch.commands.options import JsonOption, KeyOption, UrlOption, connect, tabulator
from nightbatch.commands.progress import seconds

if TYPE_CHECKING:
    from openai.types import Batch

    from nightbatch.client import Client

WATCH_SECONDS = 1.0
UNBOUNDED_COLUMNS = 10_000
NUMBERS = ("done", "failed", "age")
DISPENSABLE = ("endpoint", "model", "window", "age")
"""Columns that go, in this order, where a screen is too narrow for all."""

STYLES = {"completed": "green", "failed": "red", "expired": "yellow", "cancelled": "yellow", "in_progress": "cyan"}


def status(
    batch_id: Annotated[str | None, typer.Argument(metavar="[BATCH]", help="One batch, with everything known.")] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show it until it ends; all: until Ctrl-C.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Why BATCH runs or waits, who is ahead, when it should be done.")
    ] = False,
    limit: Annotated[int, typer.Option(help="How many batches to list.", min=1, max=1000)] = 20,
    as_json: JsonOption = False,
    url: UrlOption = None,
    api_key: KeyOption = None,
) -> None:
    """List batches, or show one."""
    if explain and (batch_id is None or watch):
        raise exits.UsageError("--explain goes with one BATCH, and not with --watch")
    client = connect(url, api_key)
    if explain and batch_id is not None:
        _explain(client.schedule(batch_id), as_json=as_json)
        if not as_json:
            tabulator().print(Group(*_engines(client)))
        return
    if as_json:
        if watch:
            raise exits.UsageError("--json and --watch do not go together")
        found = client.batch(batch_id) if batch_id else client.batches(limit)
        value: Any = [one.model_dump() for one in found] if isinstance(found, list) else found.model_dump()
        print(json.dumps(value, indent=2))
        return
    screen = tabulator()
    if watch:
        _watch(client, batch_id, limit, screen)
    else:
        screen.print(_view(client, batch_id, limit, screen)[0])
    if batch_id is not None:
        _advise(client.batch(batch_id), screen)


def _explain(schedule: dict[str, Any], *, as_json: bool) -> None:
    from nightbatch.explaining import rows

    if as_json:
        print(json.dumps(schedule, indent=2))
        return
    now = time.time()
    found = rows(schedule, moment=lambda at: f"{moment(at, now)}", span=seconds)
    tabulator().print(_listed(found))


def _advise(batch: Batch, screen: Console) -> None:
    """Commands stand below the table, each on a line of its own: broken by a column they could not be copied."""
    from nightbatch.following import TERMINAL
    from nightbatch.quality import advice

    for line in advice(batch, batch.status in TERMINAL):
        screen.print(line, markup=False, highlight=False, soft_wrap=True)


def _watch(client: Client, batch_id: str | None, limit: int, screen: Console) -> None:
    from nightbatch.client import ClientError

    view, ended = _view(client, batch_id, limit, screen)
    with Live(view, console=screen, auto_refresh=False, transient=False) as live:
        while not ended:
            time.sleep(WATCH_SECONDS)
            try:
                view, ended = _view(client, batch_id, limit, screen)
                live.update(view, refresh=True)
            except ClientError as error:
                if not error.unreachable:
                    raise
                live.update(Group(view, Text(f"{error}; asking again", style="yellow")), refresh=True)


def _view(client: Client, batch_id: str | None, limit: int, screen: Console) -> tuple[RenderableType, bool]:
    """What to show now, and whether it can still change."""
    from nightbatch.following import TERMINAL

    if batch_id is None:
        view, ended = overview(client.batches(limit), screen, now=time.time()), False
    else:
        batch = client.batch(batch_id)
        view, ended = details(batch, now=time.time()), batch.status in TERMINAL
    return (view, ended) if ended else (Group(view, *_engines(client)), ended)


def _engines(client: Client) -> list[RenderableType]:
    """How the engines are fed, below the table: what is slow is often not the batch."""
    from nightbatch.feeding import sentences, warnings

    found = client.engines()
    if found is None:
        return []
    told = [Text(text, style="dim") for text in sentences(found)]
    return [*told, *(Text(text, style="yellow") for text in warnings(found))]


def overview(batches: list[Batch], screen: Console, *, now: float) -> RenderableType:
    """A table that fits the screen. An id that is cut off is of no use to anyone: whole columns go instead."""
    if not batches:
        return Text("no batches yet: nightbatch submit FILE", style="dim")
    views = [table(batches, hidden=DISPENSABLE[:count], now=now) for count in range(len(DISPENSABLE) + 1)]
    unbounded = screen.options.update(width=UNBOUNDED_COLUMNS)
    return next((view for view in views if screen.measure(view, options=unbounded).maximum <= screen.width), views[-1])


def table(batches: list[Batch], *, hidden: Sequence[str] = (), now: float) -> Table:
    view = Table(box=None, pad_edge=False, header_style="bold")
    rows = [_row(batch, now) for batch in batches]
    shown = [name for name in rows[0] if name not in hidden]
    for name in shown:
        view.add_column(name, justify="right" if name in NUMBERS else "left", no_wrap=True, overflow="fold")
    for row in rows:
        view.add_row(*(row[name] for name in shown))
    return view


def _row(batch: Batch, now: float) -> dict[str, str | Text]:
    from nightbatch.following import done, pause_reason, total

    paused = " (paused)" if pause_reason(batch) else ""
    return {
        "batch": batch.id,
        "status": Text(f"{batch.status}{paused}", style=STYLES.get(batch.status, "")),
        "done": f"{done(batch):,}/{total(batch):,}",
        "failed": f"{batch.request_counts.failed:,}" if batch.request_counts else "",
        "model": batch.model or "",
        "endpoint": batch.endpoint,
        "window": batch.completion_window,
        "age": seconds(max(0.0, now - batch.created_at)),
    }


def details(batch: Batch, *, now: float) -> Table:
    from nightbatch import quality
    from nightbatch.following import done, pause_reason, speed_of, total, warnings_of
    from nightbatch.outcome import refusals

    failed = batch.request_counts.failed if batch.request_counts else 0
    reused = getattr(batch, "reused_requests", 0)
    rows: list[tuple[str, str | None]] = [
        ("batch", batch.id),
        ("status", batch.status),
        ("paused", pause_reason(batch)),
        ("warnings", "\n".join(warnings_of(batch)) or None),
        ("model", batch.model),
        ("endpoint", batch.endpoint),
        ("speed", speed_of(batch)),
        ("ends about", moment(getattr(batch, "eta_at", None), now)),
        ("lines", f"{done(batch):,} of {total(batch):,} done" if total(batch) else None),
        (
            "failed",
            f"{failed:,}" if failed else None,
        ),
        ("reused", f"{reused:,} had the answer of an identical line" if reused else None),
        ("tokens", f"{batch.usage.input_tokens:,} in, {batch.usage.output_tokens:,} out" if batch.usage else None),
        *quality.rows(batch),
        ("created", moment(batch.created_at, now)),
        ("deadline", f"{moment(batch.expires_at, now)} (window {batch.completion_window})"),
        *((name, moment(getattr(batch, f"{name}_at", None), now)) for name in STAMPS),
        ("input", batch.input_file_id),
        ("output", batch.output_file_id or None),
        ("errors", batch.error_file_id or None),
        ("metadata", json.dumps(batch.metadata) if batch.metadata else None),
        ("refused", "\n".join(refusals(batch)) or None),
    ]
    return _listed([(name, value) for name, value in rows if value is not None])


def _listed(rows: Sequence[tuple[str, str]]) -> Table:
    view = Table(box=None, pad_edge=False, show_header=False)
    view.add_column(style="bold", no_wrap=True)
    view.add_column(overflow="fold")
    for name, value in rows:
        view.add_row(name, Text(value))
    return view


STAMPS = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")


def moment(at: int | None, now: float) -> str | None:
    """`2026-07-01 23:05:12 (3 min ago)`, in local time."""
    if at is None:
        return None
    from datetime import UTC, datetime

    text = datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return f"{text} ({seconds(now - at)} ago)" if at <= now else f"{text} (in {seconds(at - now)})"
