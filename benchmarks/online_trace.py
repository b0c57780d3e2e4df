"""When online requests come and how long they speak: arrival times of a real trace, stretched to a wanted presence.

Presence is the share of time in which at least one online request is under way. Pure but for reading the two files.
"""

from __future__ import annotations

import csv
import json
import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.form import CouldNotMeasure

DATA = Path(__file__).resolve().parent / "data"
TRACES = {"code": 1, "conv": 16}
"""What output lengths are divided by: `code` answers briefly as it is, `conv` would keep a small machine busy for
seconds with each request."""

OUTPUT_TOKENS_MIN, OUTPUT_TOKENS_MAX = 4, 64
STRETCH_MIN, STRETCH_MAX, STRETCH_STEPS = 0.02, 200.0, 600


@dataclass(frozen=True, slots=True)
class Arrival:
    """Seconds after the trace (or a window of it) began, and how many tokens are asked for."""

    at: float
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Alone:
    """What one online request takes on an idle engine, in seconds."""

    ttft: float
    itl: float

    def seconds(self, output_tokens: int) -> float:
        return self.ttft + self.itl * (output_tokens - 1)


def read_trace(name: str) -> list[Arrival]:
    path = DATA / "azure_llm_2023" / f"arrivals_{name}.csv"
    try:
        with path.open(newline="", encoding="ascii") as file:
            rows = [(int(gap), int(tokens)) for gap, tokens in list(csv.reader(file))[1:]]
    except (OSError, ValueError) as error:
        raise CouldNotMeasure(f"the trace {name} cannot be read ({error}): reinstall nightbatch") from error
    arrivals, at = [], 0
    for gap, tokens in rows:
        at += gap
        spoken = round(tokens / TRACES[name])
        arrivals.append(Arrival(at / 1000, min(OUTPUT_TOKENS_MAX, max(OUTPUT_TOKENS_MIN, spoken))))
    return arrivals


def read_texts() -> list[str]:
    path = DATA / "mt_bench" / "questions.jsonl"
    try:
        return [str(json.loads(line)["text"]) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError, KeyError) as error:
        raise CouldNotMeasure(f"the questions cannot be read ({error}): reinstall nightbatch") from error


def cut(trace: Sequence[Arrival], *, windows: int, seconds: float, stretch: float) -> list[list[Arrival]]:
    """`windows` stretches of the trace, evenly spread over it, each played in `seconds` at `stretch` times its time."""
    length = trace[-1].at
    span = seconds / stretch
    found = []
    for number in range(windows):
        start = max(0.0, (length - span) * (number + 0.5) / windows)
        first, last = (bisect_left(trace, at, key=lambda one: one.at) for at in (start, start + span))
        found.append([Arrival((one.at - start) * stretch, one.output_tokens) for one in trace[first:last]])
    return found


def covered(spans: Iterable[tuple[float, float]], start: float, end: float) -> float:
    """Seconds between `start` and `end` that lie in at least one of the spans."""
    total, reached = 0.0, start
    for begin, stop in sorted(spans):
        begin, stop = max(begin, reached), min(stop, end)  # noqa: PLW2901 (clipped to what is not yet counted)
        if stop > begin:
            total += stop - begin
            reached = stop
    return total


def presence(windows: Sequence[Sequence[Arrival]], *, seconds: float, alone: Alone) -> float:
    """As it would be if requests did not slow each other."""
    busy = sum(
        covered(((one.at, one.at + alone.seconds(one.output_tokens)) for one in window), 0.0, seconds)
        for window in windows
    )
    return busy / (seconds * len(windows))


def stretched(
    trace: Sequence[Arrival], *, windows: int, seconds: float, alone: Alone, wanted: float
) -> list[list[Arrival]]:
    """The windows at the stretch that comes nearest to the wanted presence. A grid, since bursts make it no monotone
    function; of equally near ones the least stretched."""
    ratio = math.log(STRETCH_MAX / STRETCH_MIN) / (STRETCH_STEPS - 1)
    candidates = (
        cut(trace, windows=windows, seconds=seconds, stretch=STRETCH_MIN * math.exp(ratio * step))
        for step in range(STRETCH_STEPS)
    )
    return min(candidates, key=lambda found: abs(presence(found, seconds=seconds, alone=alone) - wanted))
