"""A week of three disciplines: when batch work ran, beside what online requests left. Needs nightbatch[bench]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from benchmarks.deadlines_world import HOUR, SLICE, START_AT, ZONE, Room

COLOURS = {"fcfs": "#8a8d91", "edf": "#c77d0a", "ours": "#0b6e4f"}
LEFT, WINDOW = "#e3e4e6", "#dbe7f5"
INCHES, DOTS_PER_INCH = (12.0, 6.2), 130
SLICES_PER_HOUR = int(HOUR / SLICE)


def hourly(spent: Mapping[int, float] | Sequence[float], first: int, hours: int) -> list[float]:
    """Shares of the engine's time by hour, from slice `first` on."""
    values = dict(enumerate(spent)) if isinstance(spent, Sequence) else spent
    starts = range(first, first + hours * SLICES_PER_HOUR, SLICES_PER_HOUR)
    return [sum(values.get(no, 0.0) for no in range(start, start + SLICES_PER_HOUR)) / HOUR for start in starts]


def draw(
    room: Room, spent: Mapping[str, Mapping[int, float]], *, first: int, hours: int, path: Path, title: str
) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    since = START_AT + first * SLICE
    figure, panels = plt.subplots(len(spent), 1, figsize=INCHES, sharex=True, sharey=True)
    left, axis = hourly(room.slices, first, hours), list(range(hours))
    for panel, (name, slices) in zip(panels, spent.items(), strict=True):
        for one in room.calendar.intervals(since, since + hours * HOUR):
            panel.axvspan((one.start_at - since) / HOUR, (one.end_at - since) / HOUR, color=WINDOW, lw=0)
        panel.step(axis, left, where="post", color="black", lw=0.7)
        panel.fill_between(axis, hourly(slices, first, hours), step="post", color=COLOURS[name], lw=0)
        panel.set_ylabel(name)
        panel.set_ylim(0, 1)
    days = range(0, hours, 24)
    panels[-1].set_xticks(list(days))
    panels[-1].set_xticklabels([f"{datetime.fromtimestamp(since + day * HOUR, ZONE):%a %d %b}" for day in days])
    panels[-1].set_xlim(0, hours)
    figure.suptitle(title, fontsize=10)
    figure.supylabel(
        "share of the engine: batch work (filled), left by online requests (line), windows (blue)", fontsize=8
    )
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DOTS_PER_INCH)
    plt.close(figure)
