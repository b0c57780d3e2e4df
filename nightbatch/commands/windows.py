"""`nightbatch windows`: the off-peak hours of the next days, and a first set of them for the configuration."""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from nightbatch import exits
from nightbatch.commands.options import ConfigOption, JsonOption, printer, tabulator

if TYPE_CHECKING:
    from nightbatch.config.windows import WindowsSection
    from scheduler.facts.windows import Interval

DAY_SECONDS = 24 * 3600
DAYS_MAX = 366
HINT = "no off-peak window is set: batches run at any hour. `nightbatch windows init` asks and writes them."

app = typer.Typer(help="Show the off-peak hours of the next days, or set them.", invoke_without_command=True)


@app.callback()
def windows(
    context: typer.Context,
    days: Annotated[int, typer.Option(min=1, max=DAYS_MAX, help="How many days to show.")] = 7,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show when batches run at full rate in the next days, as the configuration says, and what the outside signal, if
    there is one, says now."""
    if context.invoked_subcommand is not None:
        return
    from nightbatch.config import find_file, load

    section = load(find_file(config)).windows
    calendar, now = section.calendar(), time.time()
    found = [] if calendar.is_always_open else calendar.intervals(now, now + days * DAY_SECONDS)
    signal = _Signal.looked_at(section)
    if as_json:
        shown = {"timezone": section.timezone, "outside": section.outside, "windows": _plain(found)}
        print(json.dumps({**shown, "signal": None if signal is None else signal.plain()}, indent=2))
        return
    out = printer()
    if calendar.is_always_open:
        out.print(HINT, markup=False)
        if signal is not None:
            out.print(f"\n{signal.told}", markup=False)
        return
    tabulator().print(_table(found, calendar.zone, now))
    hours = sum(one.end_at - one.start_at for one in found) / 3600
    share = hours / (days * 24)
    then = "run as well (fill)" if section.outside == "fill" else "wait while their deadline allows (hold)"
    out.print(
        f"\n{hours:.1f} h of {days * 24} h ({share:.0%}) are off-peak. Outside them batches {then}.", markup=False
    )
    if signal is not None:
        out.print(signal.told, markup=False)


@dataclass(frozen=True, slots=True)
class _Signal:
    """One look at the outside signal, from here: a running server takes its own."""

    name: str
    state: str
    says: str | None
    problem: str | None
    told: str

    @classmethod
    def looked_at(cls, section: WindowsSection) -> _Signal | None:
        from nightbatch.outside_signal import outside_signal

        signal = outside_signal(section, os.environ, time.time)
        if signal is None or section.signal is None:
            return None

        async def look() -> None:
            await signal.look()
            await signal.close()

        asyncio.run(look())
        verdict = signal.state.verdict
        state = "unknown" if verdict is None else "busy" if verdict.busy else "free"
        says = None if verdict is None else verdict.shown
        return cls(section.signal.name, state, says, signal.state.problem, signal.told())

    def plain(self) -> dict[str, str | None]:
        return {"name": self.name, "state": self.state, "says": self.says, "problem": self.problem}


def _table(found: list[Interval], zone: tzinfo, now: float) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("window", "opens", "closes", "hours"):
        table.add_column(name, no_wrap=True, justify="right" if name == "hours" else "left")
    for one in found:
        opens = "now" if one.start_at <= now else _moment(one.start_at, zone)
        table.add_row(one.name, opens, _moment(one.end_at, zone), f"{(one.end_at - one.start_at) / 3600:.2f}")
    return table


def _moment(at: float, zone: tzinfo) -> str:
    return f"{datetime.fromtimestamp(at, zone):%a %d %b %H:%M %Z}"


def _plain(found: list[Interval]) -> list[dict[str, str]]:
    return [
        {
            "name": one.name,
            "opens_at": datetime.fromtimestamp(one.start_at, UTC).isoformat(),
            "closes_at": datetime.fromtimestamp(one.end_at, UTC).isoformat(),
        }
        for one in found
    ]


@app.command("init")
def init(
    config: Annotated[Path, typer.Option("--config", help="File to write to; it is made if need be.")] = Path(
        "nightbatch.toml"
    ),
) -> None:
    """Ask for the off-peak hours and add them to the configuration file."""
    text = _existing(config)
    out = printer()
    out.print(f"Off-peak hours for {config}. Enter takes what is in brackets.\n", markup=False)
    addition = _asked()
    config.write_text((text.rstrip("\n") + "\n\n" if text.strip() else "") + addition, encoding="utf-8")
    out.print(f"\nAdded to {config}:\n\n{addition}", markup=False)
    out.print("A running server reads it at its next start. See the hours with: nightbatch windows", markup=False)


def _existing(config: Path) -> str:
    from nightbatch.config import load

    if not config.exists():
        return ""
    load(config, environment={})  # what is wrong with it already is said now, not after the questions
    text = config.read_text(encoding="utf-8")
    if any(line.strip().startswith(("[windows]", "[[windows.")) for line in text.splitlines()):
        raise exits.UsageError(f"{config} has [windows] already: change it there, and see it with: nightbatch windows")
    return text


def _asked() -> str:
    from nightbatch.config.windows import clock, zone
    from scheduler.facts.windows import window_days

    timezone = _ask("time zone", _own_zone(), zone)
    days = _ask("days on which it opens", "mon-fri", lambda text: window_days(text.split(",")))
    start = _ask("opens at", "22:00", clock)
    end = _ask("closes at (next day, if it is not later)", "06:00", clock)
    weekend = typer.confirm("Saturday and Sunday all day too?", default=True)
    wait = typer.confirm("Outside them, let batches wait while their deadline allows?", default=False)
    lines = ["[windows]", f'timezone = "{timezone}"', f'outside = "{"hold" if wait else "fill"}"']
    lines += _entry("night", [day.strip() for day in days.split(",")], start, end)
    if weekend:
        lines += _entry("weekend", ["sat", "sun"], "00:00", "24:00")
    return "\n".join(lines) + "\n"


def _entry(name: str, days: list[str], start: str, end: str) -> list[str]:
    return [
        "",
        "[[windows.off_peak]]",
        f'name = "{name}"',
        f"days = {json.dumps(days)}",
        f'start = "{start}"',
        f'end = "{end}"',
    ]


def _ask(question: str, default: str, check: object) -> str:
    """Asks until the answer is one that the server would take."""
    assert callable(check)
    while True:
        answer: str = typer.prompt(question, default=default).strip()
        try:
            check(answer)
        except ValueError as error:
            typer.echo(f"  {error}")
        else:
            return answer


def _own_zone() -> str:
    """The machine's zone by its name, if it tells; UTC else."""
    try:
        place = str(Path("/etc/localtime").resolve())
    except OSError:
        return "UTC"
    return place.partition("zoneinfo/")[2] or "UTC"
