"""What each step of an engine did, written inside vLLM by `vllm_measured` and read here; and the knobs the other way.

A record per step says exactly how many tokens batch and online requests got, so a window's batch throughput needs no
request to end inside it and no polling.
"""

from __future__ import annotations

import mmap
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

FOLDER_VARIABLE = "BENCH_ENGINE_STEPS"
"""The folder of both files. It does not begin with NIGHTBATCH_: those are settings, and unknown ones are refused."""

LOG_NAME = "steps.bin"
KNOBS_NAME = "knobs.bin"
RECORD = struct.Struct("<d7I")
KNOBS = struct.Struct("<3I")


@dataclass(frozen=True, slots=True)
class Step:
    """`ended_at` is Unix seconds. Prompt tokens are those that were computed, without cache hits."""

    ended_at: float
    batch_output: int
    batch_prompt: int
    online_output: int
    online_prompt: int
    running: int
    waiting: int
    step_us: int

    def packed(self) -> bytes:
        return RECORD.pack(*astuple(self))


@dataclass(frozen=True, slots=True)
class Knobs:
    """`step_tokens` 0: what the engine was started with. `is_fcfs`: online requests join the queue as batch ones do.
    `long_prefill_tokens`: as vLLM's `--long-prefill-token-threshold`, what one prompt may take of a step; 0: all."""

    step_tokens: int = 0
    is_fcfs: bool = False
    long_prefill_tokens: int = 0


def write_knobs(folder: Path, knobs: Knobs) -> None:
    """In place: the engine has the file mapped. Each field is one aligned word, so no reader sees half of one."""
    path = folder / KNOBS_NAME
    if not path.exists():
        path.write_bytes(bytes(KNOBS.size))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), KNOBS.size) as memory:
        memory[:] = KNOBS.pack(*astuple(knobs))


def read_steps(folder: Path, *, after: int = 0) -> list[Step]:
    """All whole records from the `after`-th on; none while the engine has not stepped."""
    path = folder / LOG_NAME
    if not path.exists():
        return []
    with path.open("rb") as file:
        file.seek(after * RECORD.size)
        found = file.read()
    return [Step(*values) for values in RECORD.iter_unpack(found[: len(found) // RECORD.size * RECORD.size])]


def between(steps: Sequence[Step], start: float, end: float) -> Sequence[Step]:
    """Steps that ended after `start` and not after `end`."""
    ends = [step.ended_at for step in steps]
    return steps[bisect_right(ends, start) : bisect_left(ends, end)]
