"""One life of a host process, seen from the server: started, asked, watched, ended.

A connection is never reused: the next start makes the next one. Everything in flight when the host goes away fails
with `EngineUnavailable(died=True)`; after an orderly stop there is nothing in flight.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from engine import processes
from engine.processes import EngineRecord, ProcessMark
from engine.protocol import EngineOverloaded, EngineRequest, EngineResult, EngineStartError, EngineUnavailable, Usage
from engine.vllm import frames
from engine.vllm.causes import LOG_TAIL_BYTES, one_line, root_cause
from engine.vllm.framing import FrameReader, FrameWriter

HOST_COMMAND = ("-m", "engine.vllm.host")
LOG_BYTES_MAX = 32 * 1024 * 1024
"""A log above this is put aside (`<name>.log.1`) at the next start."""

STOP_SECONDS = 15.0
"""What an orderly end may take beyond the drain, before the host is killed."""

WRITE_BUFFER_BYTES = 1024 * 1024
"""Above this an ask waits for the host to read."""

KILL_SECONDS = 8.0
METRICS_SECONDS = 5.0
SLEEP_SECONDS = 60.0
"""What falling asleep may take beyond the drain: the weights move to main memory."""

WAKE_SECONDS = 600.0
"""... and waking, which may read the weights from disk again."""

Reply = frames.Answer | frames.Unavailable | frames.MetricsText | frames.Done


class HostConnection:
    """Use `await HostConnection.open(...)`; then `ready` is set and `ask` works until `gone` is set."""

    def __init__(self, engine: str, folder: Path, process: asyncio.subprocess.Process, log_start: int) -> None:
        self.engine = engine
        self.ready: frames.Ready | None = None
        self.pulse = frames.Pulse(0, 0, 0.0, 0.0, 0.0, 0)
        self.moved_at = time.monotonic()
        self.gone = asyncio.Event()
        self.reason = ""
        self._folder = folder
        self._process = process
        self._log_start = log_start
        self._marks: tuple[ProcessMark, ...] = processes.tree_of(process.pid, "host")
        self._numbers = itertools.count(1)
        self._replies: dict[int, asyncio.Future[Reply]] = {}
        self._streams: dict[int, asyncio.Queue[frames.Event | Reply | None]] = {}
        self._orders: dict[int, asyncio.Future[Reply]] = {}
        """Sleep and wake make no steps: they are not in flight for the watch on silence."""
        self._failed: frames.Failed | None = None
        self._outgoing: FrameWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._told: asyncio.Event = asyncio.Event()
        self._stopping = False
        self._explained = False

    @classmethod
    async def open(
        cls,
        launch: frames.Launch,
        *,
        folder: Path,
        environment: Mapping[str, str],
        seconds_max: float,
        command: Sequence[str] = HOST_COMMAND,
    ) -> HostConnection:
        """Start a host and wait until its engine is ready. Raises EngineStartError with the root cause."""
        log, log_start = await asyncio.to_thread(_open_log, folder, launch.engine)
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", *command, str(theirs.fileno()),
                stdin=subprocess.PIPE, stdout=log, stderr=log, env=dict(environment),
                pass_fds=(theirs.fileno(),), start_new_session=True,
            )  # fmt: skip
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            log.close()
        self = cls(launch.engine, folder, process, log_start)
        try:
            await self._begin(ours, launch)
            async with asyncio.timeout(seconds_max):
                await self._told.wait()
        except TimeoutError:
            await self.kill()
            raise EngineStartError(f"the engine was not ready after {seconds_max:.0f} s; see {self.log_path}") from None
        except BaseException:
            await self.kill()
            raise
        if self.ready is None:
            await self.kill()
            raise EngineStartError(await asyncio.to_thread(self._start_cause))
        return self

    @property
    def log_path(self) -> Path:
        return log_path(self._folder, self.engine)

    @property
    def inflight(self) -> int:
        return len(self._replies) + len(self._streams)

    async def _begin(self, ours: socket.socket, launch: frames.Launch) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        self._outgoing = FrameWriter(writer)
        await asyncio.to_thread(self._write_record)
        self._outgoing.send(launch)
        self._reading = asyncio.create_task(self._read(reader), name=f"read {self.engine}")

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            async for frame in FrameReader(reader, frames.decode_from_host):
                await self._take(frame)
        finally:
            self._lose()

    async def _take(self, frame: frames.FromHost) -> None:
        match frame:
            case frames.Pulse():
                if frame.steps != self.pulse.steps:
                    self.moved_at = time.monotonic()
                self.pulse = frame
            case frames.Event(no):
                self.moved_at = time.monotonic()
                if (queue := self._streams.get(no)) is not None:
                    queue.put_nowait(frame)
            case frames.Processes(found):
                self._marks = tuple(ProcessMark(*mark) for mark in found)
                await asyncio.to_thread(self._write_record)
            case frames.Ready():
                self.ready = frame
                self._log_start = await asyncio.to_thread(lambda: self.log_path.stat().st_size)
                self._told.set()
            case frames.Failed():
                self._failed = frame
            case _:
                self._settle(frame)

    def _settle(self, reply: Reply) -> None:
        self.moved_at = time.monotonic()
        if (waiting := self._replies.pop(reply.no, None)) is not None and not waiting.done():
            waiting.set_result(reply)
        if (queue := self._streams.get(reply.no)) is not None:
            queue.put_nowait(reply)
        if (order := self._orders.get(reply.no)) is not None and not order.done():
            order.set_result(reply)

    def _lose(self) -> None:
        """The host is gone, or the stream to it: nothing in flight will be answered."""
        self.reason = self.reason or (self._failed.reason if self._failed else "the engine process ended")
        self.gone.set()
        self._told.set()
        for waiting in self._replies.values():
            if not waiting.done():
                waiting.set_exception(self._unavailable())
        self._replies.clear()
        for order in self._orders.values():
            if not order.done():
                order.set_exception(self._unavailable())
        for queue in self._streams.values():
            queue.put_nowait(None)

    def _unavailable(self) -> EngineUnavailable:
        return EngineUnavailable(f"engine {self.engine}: {self.reason}", died=not self._stopping)

    async def ask(self, request: EngineRequest) -> EngineResult:
        no = next(self._numbers)
        waiting: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._track_start()
        self._replies[no] = waiting
        try:
            await self._write(_ask(no, request))
            return _to_result(await waiting)
        except asyncio.CancelledError:
            self._cancel(no)
            raise
        finally:
            self._replies.pop(no, None)

    async def stream(self, request: EngineRequest) -> AsyncGenerator[bytes | EngineResult]:
        """Events as bytes; a refusal is the one EngineResult, in place of all events."""
        no = next(self._numbers)
        queue: asyncio.Queue[frames.Event | Reply | None] = asyncio.Queue()
        self._track_start()
        self._streams[no] = queue
        ended = False
        try:
            await self._write(_ask(no, request, stream=True))
            while not ended:
                frame = await queue.get()
                if isinstance(frame, frames.Event):
                    yield frame.data
                    continue
                ended = True
                if frame is None:
                    raise self._unavailable()
                result = _to_result(frame)
                if result.body:
                    yield result
        finally:
            if not ended:
                self._cancel(no)
            self._streams.pop(no, None)

    async def metrics(self) -> str:
        no = next(self._numbers)
        waiting: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._replies[no] = waiting
        try:
            await self._write(frames.MetricsAsk(no))
            async with asyncio.timeout(METRICS_SECONDS):
                reply = await waiting
            return reply.text if isinstance(reply, frames.MetricsText) else ""
        except (TimeoutError, EngineUnavailable):
            return ""
        finally:
            self._replies.pop(no, None)

    async def sleep(self, drain_seconds: float, level: int) -> None:
        """Returns when the device's memory is free. Raises EngineUnavailable when it could not be freed."""
        no = next(self._numbers)
        await self._order(no, frames.Sleep(no, drain_seconds, level), drain_seconds + SLEEP_SECONDS)

    async def wake(self) -> None:
        """Raises EngineUnavailable when the engine does not wake: it is of no more use then."""
        no = next(self._numbers)
        await self._order(no, frames.Wake(no), WAKE_SECONDS)

    async def _order(self, no: int, frame: frames.Sleep | frames.Wake, seconds_max: float) -> None:
        waiting: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._orders[no] = waiting
        try:
            await self._write(frame)
            async with asyncio.timeout(seconds_max):
                reply = await waiting
        except TimeoutError:
            raise EngineUnavailable(f"engine {self.engine}: no answer within {seconds_max:.0f} s") from None
        finally:
            del self._orders[no]
        if isinstance(reply, frames.Unavailable):
            raise EngineUnavailable(f"engine {self.engine}: {reply.reason}")

    def _track_start(self) -> None:
        """An idle engine makes no steps: the silence is measured from the first request on."""
        if not self.inflight:
            self.moved_at = time.monotonic()

    async def _write(self, frame: frames.ToHost) -> None:
        if self.gone.is_set() or self._outgoing is None:
            raise self._unavailable()
        try:
            self._outgoing.send(frame)
            if self._outgoing.unsent_bytes > WRITE_BUFFER_BYTES:
                await self._outgoing.drain()
        except ConnectionError:
            await self.gone.wait()
            raise self._unavailable() from None

    def _cancel(self, no: int) -> None:
        if not self.gone.is_set() and self._outgoing is not None:
            self._outgoing.send(frames.Cancel(no))

    async def stop(self, drain_seconds: float) -> None:
        """Let the host finish and end, kill it when it does not."""
        self._stopping = True
        self.reason = "the engine was stopped"
        with contextlib.suppress(EngineUnavailable):
            await self._write(frames.Stop(drain_seconds))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_seconds + STOP_SECONDS):
                await self._process.wait()
        await self.kill()

    async def kill(self, reason: str = "") -> None:
        """End the host and all that it started, now, and wait until nothing of it lives. Safe to call twice."""
        if reason:
            self.reason, self._explained = reason, True
        self._marks = await asyncio.to_thread(self._all_marks)
        if self._process.stdin is not None:
            self._process.stdin.close()  # the host's watch ends its children and itself
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KILL_SECONDS):
                await self._process.wait()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await asyncio.to_thread(self._end_leftovers)
        await self._process.wait()
        if not self._stopping and not self._explained:
            self.reason, self._explained = await asyncio.to_thread(self._death_cause), True
        if self._outgoing is not None:
            self._outgoing.close()
        if self._reading is not None:
            await asyncio.wait({self._reading})
        else:
            self._lose()
        await asyncio.to_thread(processes.forget_record, self._folder, self.engine)

    def _all_marks(self) -> tuple[ProcessMark, ...]:
        """What is known, and what a host that is still starting has begun meanwhile."""
        return tuple(dict.fromkeys([*self._marks, *processes.tree_of(self._process.pid, "host")]))

    def _end_leftovers(self) -> None:
        """All but the host itself, which asyncio waits for: psutil would take its exit code away."""
        below = [mark for mark in self._marks if mark.pid != self._process.pid]
        living = processes.alive(below)
        processes.end(living, KILL_SECONDS)
        processes.remove_openmp_marks({mark.pid for mark in self._marks} | {process.pid for process in living})

    def _write_record(self) -> None:
        processes.write_record(self._folder, EngineRecord(self.engine, os.getpid(), self._marks))

    def _death_cause(self) -> str:
        """Why a ready engine ended: what its processes said last, else how the host ended."""
        return root_cause(self.log_tail()) or f"the engine process {self._ending()}"

    def _ending(self) -> str:
        code = self._process.returncode
        if self._failed is not None:
            return "lost its engine"
        if code is not None and code < 0:
            return f"was killed by signal {-code}"
        return f"ended with exit code {code}"

    def _start_cause(self) -> str:
        failed = self._failed
        if failed is not None and failed.exact:
            return failed.reason
        cause = root_cause(self.log_tail())
        if cause is None:
            cause = failed.reason if failed is not None else f"the engine process {self._ending()}"
        return one_line(f"{cause} (see {self.log_path})")

    def log_tail(self) -> str:
        """What this life has printed, the last part of it where it is long."""
        with self.log_path.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, end - LOG_TAIL_BYTES))
            return log.read().decode(errors="replace")


def log_path(folder: Path, engine: str) -> Path:
    return folder / f"{processes.file_stem(engine)}.log"


def _open_log(folder: Path, engine: str) -> tuple[BinaryIO, int]:
    folder.mkdir(parents=True, exist_ok=True)
    path = log_path(folder, engine)
    if path.exists() and path.stat().st_size > LOG_BYTES_MAX:
        path.replace(path.with_suffix(".log.1"))
    log = path.open("ab")
    return log, log.tell()


def _ask(no: int, request: EngineRequest, *, stream: bool = False) -> frames.Ask:
    return frames.Ask(no, request.model, request.endpoint, request.body, request.priority, stream)


def _to_result(reply: Reply) -> EngineResult:
    match reply:
        case frames.Answer():
            usage = Usage(reply.prompt_tokens, reply.cached_tokens, reply.completion_tokens)
            return EngineResult(reply.status_code, reply.body, usage)
        case frames.Unavailable():
            raise _refused(reply)
        case _:
            raise EngineUnavailable("the engine's host answered out of turn")


def _refused(reply: frames.Unavailable) -> Exception:
    return EngineOverloaded(reply.reason) if reply.overloaded else EngineUnavailable(reply.reason)
