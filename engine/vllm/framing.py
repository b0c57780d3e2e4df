"""Frames over a socket, many at a time: one read and one write for all that is there, however small each frame is.

With short texts there are hundreds of frames a second in each direction, and a system call and two wake-ups for each
would cost more than what they carry.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from typing import Generic, TypeVar

from engine.vllm import frames

READ_BYTES = 256 * 1024
"""Taken from the socket at once."""

WAITING_BYTES_MAX = 256 * 1024
"""Frames that wait for the end of the loop's round are written at once above this: they need not be joined."""

_LENGTH = struct.Struct("!I")
Frame = TypeVar("Frame")


class FrameTooLarge(Exception):
    pass


def encoded(frame: frames.ToHost | frames.FromHost) -> bytes:
    """With its length before it."""
    payload = frames.encode(frame)
    _check(len(payload))
    return _LENGTH.pack(len(payload)) + payload


def _check(length: int) -> None:
    if length > frames.FRAME_BYTES_MAX:
        raise FrameTooLarge(f"a frame of {length} bytes is above the limit of {frames.FRAME_BYTES_MAX}")


class FrameReader(Generic[Frame]):
    """Iterates over frames until the other side is gone, also in the middle of one."""

    def __init__(self, reader: asyncio.StreamReader, decode: Callable[[memoryview], Frame]) -> None:
        self._reader = reader
        self._decode = decode
        self._bytes = bytearray()

    async def __aiter__(self) -> AsyncIterator[Frame]:
        while data := await self._read():
            self._bytes += data
            for frame in self._whole():
                yield frame

    async def _read(self) -> bytes:
        try:
            return await self._reader.read(READ_BYTES)
        except ConnectionError:
            return b""

    def _whole(self) -> list[Frame]:
        """The frames that have come whole; they are taken out of the buffer."""
        found: list[Frame] = []
        at, end = 0, len(self._bytes)
        with memoryview(self._bytes) as view:
            while end - at >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(view, at)
                _check(length)
                begin = at + _LENGTH.size
                if end - begin < length:
                    break
                at = begin + length
                with view[begin:at] as payload:
                    found.append(self._decode(payload))
        if at:
            del self._bytes[:at]
        return found


class FrameWriter:
    """Writes what one round of the event loop sends as one. From the loop's thread only."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._is_due = False

    def send(self, frame: frames.ToHost | frames.FromHost) -> None:
        """Raises FrameTooLarge; a side that is gone is noticed by whoever reads from it."""
        data = encoded(frame)
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes > WAITING_BYTES_MAX:
            self.flush()
        elif not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._end_round)

    def flush(self) -> None:
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        if waiting:
            self._writer.write(waiting[0] if len(waiting) == 1 else b"".join(waiting))

    def _end_round(self) -> None:
        self._is_due = False
        self.flush()

    @property
    def unsent_bytes(self) -> int:
        return self._waiting_bytes + self._writer.transport.get_write_buffer_size()

    async def drain(self) -> None:
        """Until the other side has read so much that more may be written. Raises ConnectionError."""
        self.flush()
        await self._writer.drain()

    async def finish(self) -> None:
        """Until everything is in the other side's hands. Raises ConnectionError."""
        self._writer.transport.set_write_buffer_limits(high=0)
        await self.drain()

    def close(self) -> None:
        self.flush()
        self._writer.close()
