"""Progress bars on a terminal; on anything else a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

LINE_SECONDS = 10.0
"""How often a line is written where there is no terminal."""

Report = Callable[[int, int, str], None]
"""done, total (0: not known yet), note."""


@contextmanager
def bar(console: Console, title: str) -> Iterator[Report]:
    with bars(console, [title]) as reports:
        yield reports[0]


@contextmanager
def bars(console: Console, titles: Sequence[str]) -> Iterator[list[Report]]:
    """One report for each title; they may be called from several threads."""
    with _live(console, titles) if console.is_terminal else _lines(console, titles) as reports:
        yield reports


@contextmanager
def _live(console: Console, titles: Sequence[str]) -> Iterator[list[Report]]:
    columns = (
        TextColumn("{task.description:<10}", markup=False),
        BarColumn(bar_width=30),
        TaskProgressColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:

        def reporter(title: str) -> Report:
            task = progress.add_task(title, total=None, note="")
            return lambda done, total, note: progress.update(task, completed=done, total=total or None, note=note)

        yield [reporter(title) for title in titles]


@contextmanager
def _lines(console: Console, titles: Sequence[str]) -> Iterator[list[Report]]:
    lines = [_Line(console, title) for title in titles]
    yield [line.report for line in lines]
    for line in lines:
        line.end()


class _Line:
    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._title = title
        self._started = time.monotonic()
        self._written_at = self._started
        self._text = title
        self._heard_at = self._started

    def report(self, done: int, total: int, note: str) -> None:
        self._heard_at = time.monotonic()
        share = f"{100 * done // total:3d} %" if total else "     "
        self._text = f"{self._title:<10} {share}  {note}"
        if self._heard_at - self._written_at >= LINE_SECONDS:
            self._written_at = self._heard_at
            self._console.print(self._text, markup=False)

    def end(self) -> None:
        self._console.print(f"{self._text}  {seconds(self._heard_at - self._started)}", markup=False)


def mib(count: int) -> str:
    """Bytes for people."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def seconds(count: float) -> str:
    """A length of time for people: `4.2 s`, `3 min 5 s`, `2 h 14 min`, `3 d 4 h`."""
    if count < 60:
        return f"{count:.1f} s"
    whole = int(count)
    for unit, size, smaller, smaller_size in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // smaller_size
            return f"{whole // size} {unit} {rest} {smaller}" if rest else f"{whole // size} {unit}"
    return f"{whole} s"
