"""Orders in, reports out: one small file that server and engine both map. A record is whole or is read again.

Each half has one writer. The writer makes the sequence number odd, writes, and makes it even; a reader that finds it
odd, or changed after reading, tries again and in the end keeps what it knew.
"""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from engine.vllm.online_first.policy import Mode, Orders

MAGIC = b"NBOF"
VERSION = 2
HEADER = struct.Struct("<4sI")
SEQUENCE = struct.Struct("<Q")
ORDERS = struct.Struct("<II5d4I")
REPORT = struct.Struct("<5Q7d")
ORDERS_AT = 64
REPORT_AT = 192
SIZE = 384
TRIES = 8


@dataclass(frozen=True, slots=True)
class Report:
    """`steps_beside` are those with an online request present; milliseconds and coefficients are the step model's."""

    steps: int = 0
    steps_beside: int = 0
    parked: int = 0
    beside: int = 0
    preemptions: int = 0
    step_ms: float = 0.0
    base_ms: float = 0.0
    decode_ms: float = 0.0
    prefill_token_ms: float = 0.0
    context_kilotoken_ms: float = 0.0
    relative_error: float = 1.0
    online_step_ms: float = 0.0


class Channel:
    """`create` on the server's side, `open` on the engine's. Neither blocks on the other."""

    def __init__(self, path: Path, memory: mmap.mmap) -> None:
        self.path = path
        self._memory = memory

    @classmethod
    def create(cls, path: Path, orders: Orders) -> Channel:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, SIZE)
            memory = mmap.mmap(descriptor, SIZE)
        finally:
            os.close(descriptor)
        channel = cls(path, memory)
        memory[: HEADER.size] = HEADER.pack(MAGIC, VERSION)
        channel.give(orders)
        channel.report(Report())
        return channel

    @classmethod
    def open(cls, path: Path) -> Channel:
        """ValueError for a file that is none of ours, OSError for one that cannot be read."""
        with path.open("r+b") as file:
            memory = mmap.mmap(file.fileno(), SIZE)
        if HEADER.unpack_from(memory) != (MAGIC, VERSION):
            memory.close()
            raise ValueError(f"{path} is no channel of version {VERSION}")
        return cls(path, memory)

    def give(self, orders: Orders) -> None:
        packed = ORDERS.pack(
            orders.mode,
            orders.is_paused,
            orders.itl_ms_max,
            orders.itl_factor_max,
            orders.ttft_ms_max,
            orders.ttft_factor_max,
            orders.idle_step_ms_min,
            orders.beside_min,
            orders.beside_max,
            orders.beside_untrusted,
            orders.step_tokens_untrusted,
        )
        self._write(ORDERS_AT, packed)

    def orders(self, known: Orders) -> Orders:
        found = self._read(ORDERS_AT, ORDERS)
        if found is None:
            return known
        mode, paused, *rest = found
        return Orders(Mode(mode), bool(paused), *rest)

    def report(self, report: Report) -> None:
        self._write(REPORT_AT, REPORT.pack(*astuple(report)))

    def reported(self, known: Report) -> Report:
        found = self._read(REPORT_AT, REPORT)
        return known if found is None else Report(*found)

    def close(self) -> None:
        self._memory.close()

    def _write(self, at: int, packed: bytes) -> None:
        (sequence,) = SEQUENCE.unpack_from(self._memory, at)
        sequence += sequence % 2  # a writer that died half way left an odd one
        SEQUENCE.pack_into(self._memory, at, sequence + 1)
        start = at + SEQUENCE.size
        self._memory[start : start + len(packed)] = packed
        SEQUENCE.pack_into(self._memory, at, sequence + 2)

    def _read(self, at: int, shape: struct.Struct) -> tuple[Any, ...] | None:
        for _ in range(TRIES):
            (before,) = SEQUENCE.unpack_from(self._memory, at)
            found = shape.unpack_from(self._memory, at + SEQUENCE.size)
            (after,) = SEQUENCE.unpack_from(self._memory, at)
            if before == after and before % 2 == 0:
                return found
        return None
