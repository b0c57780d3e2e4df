"""The clock of every arm: vLLM's own request times, written by `vllm_clock` inside whatever process runs the engine.

vLLM loads stat loggers from entry points. A distribution that consists of nothing but that entry point is laid into a
scratch folder and put on the child's PYTHONPATH, so neither the installed package nor a plain vLLM is touched.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.form import CouldNotMeasure

FOLDER_VARIABLE = "BENCH_ENGINE_CLOCK"
"""The same name as in vllm_clock, which cannot be imported here: that would load vLLM. It does not begin with
NIGHTBATCH_, because those are settings, and a server refuses the ones that it does not know."""

METADATA = "Metadata-Version: 2.1\nName: nightbatch-bench-clock\nVersion: 1\n"
ENTRY_POINTS = "[vllm.stat_logger_plugins]\nnightbatch_bench_clock = benchmarks.vllm_clock:EngineClock\n"


@dataclass(frozen=True, slots=True)
class Finish:
    """One request as the engine saw it, in Unix seconds."""

    began_at: float
    finished_at: float
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Window:
    """From the first request to the last result."""

    seconds: float
    requests: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int

    @property
    def requests_per_s(self) -> float:
        return self.requests / self.seconds

    @property
    def tokens_per_s(self) -> float:
        return self.output_tokens / self.seconds


class EngineClock:
    """A scratch folder for one run of one arm."""

    def __init__(self, folder: Path) -> None:
        self._records = folder / "clock"
        self._plugin = folder / "clock-plugin"
        self._records.mkdir()
        distribution = self._plugin / "nightbatch_bench_clock-1.dist-info"
        distribution.mkdir(parents=True)
        (distribution / "METADATA").write_text(METADATA)
        (distribution / "entry_points.txt").write_text(ENTRY_POINTS)

    def environment(self) -> Mapping[str, str]:
        """What a child that runs vLLM must get."""
        path = [str(self._plugin), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        return {FOLDER_VARIABLE: str(self._records), "PYTHONPATH": os.pathsep.join(path)}

    def window(self, *, requests: int, since: float = 0.0) -> Window:
        """Once the child has ended or is idle. Anything but `requests` finishes is no measurement of this file; what
        began before `since` was no part of it."""
        found = read(sorted(self._records.glob("*.jsonl")))
        finishes = [one for one in found if one.began_at >= since]
        if len(finishes) != requests:
            raise CouldNotMeasure(
                f"the engine finished {len(finishes)} requests, the input has {requests} lines: "
                "lines that fan out, are refused or are generated twice cannot be compared"
            )
        return window_of(finishes)


def read(paths: Sequence[Path]) -> list[Finish]:
    return [Finish(**json.loads(line)) for path in paths for line in path.read_text().splitlines()]


def window_of(finishes: Sequence[Finish]) -> Window:
    if not finishes:
        raise CouldNotMeasure("the engine finished no request")
    seconds = max(one.finished_at for one in finishes) - min(one.began_at for one in finishes)
    if seconds <= 0:
        raise CouldNotMeasure("the engine's clock stood still")
    return Window(
        seconds=seconds,
        requests=len(finishes),
        prompt_tokens=sum(one.prompt_tokens for one in finishes),
        cached_tokens=sum(one.cached_tokens for one in finishes),
        output_tokens=sum(one.output_tokens for one in finishes),
    )
