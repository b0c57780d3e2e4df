"""The process that holds one vLLM engine: `python -P -m engine.vllm.host SOCKET_FD`.

It answers frames of the server on an inherited socket and ends when its standard input does. Nothing heavy is imported
before the watch on the server runs: vLLM's imports alone take seconds, and building an engine blocks the loop.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias

import msgspec
import uvloop

from engine import processes
from engine.vllm import answering, frames
from engine.vllm.answering import EngineDied, Serves
from engine.vllm.framing import FrameReader, FrameWriter
from engine.vllm.watch import ENGINE_DEAD_EXIT_CODE, die_with_server, end_now, remember

PULSE_SECONDS = 0.5
WRITE_BUFFER_BYTES = 8 * 1024 * 1024
"""Above this an answer waits for the server to read before it is written."""

CANCEL_SECONDS = 2.0

OpenServing: TypeAlias = Callable[[frames.Launch], AbstractAsyncContextManager[tuple[Serves, frames.Ready]]]
"""Builds the engine and ends it. It may block the event loop."""


class Host:
    """Answers asks until told to stop."""

    def __init__(self, outgoing: FrameWriter, serving: Serves) -> None:
        self._outgoing = outgoing
        self._serving = serving
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._died = asyncio.Event()
        self._answers = 0

    async def run(self, incoming: AsyncIterator[frames.ToHost]) -> bool:
        """Until the server says stop (True), or the engine dies (False)."""
        pulse = asyncio.create_task(self._pulse())
        died = asyncio.create_task(self._died.wait())
        serve = asyncio.create_task(self._serve(incoming))
        try:
            await asyncio.wait({serve, died}, return_when=asyncio.FIRST_COMPLETED)
            if serve.done():
                serve.result()
            return not self._died.is_set()
        finally:
            for task in (pulse, died, serve):
                task.cancel()

    async def _serve(self, incoming: AsyncIterator[frames.ToHost]) -> None:
        async for frame in incoming:
            match frame:
                case frames.Ask():
                    self._start(frame.no, self._stream(frame) if frame.stream else self._answer(frame))
                case frames.Cancel(no):
                    if (task := self._tasks.get(no)) is not None:
                        task.cancel()
                case frames.Sleep(no, drain_seconds, level):
                    self._start(no, self._sleep(no, drain_seconds, level))
                case frames.Wake(no):
                    self._start(no, self._obey(no, self._serving.wake()))
                case frames.MetricsAsk(no):
                    await self._send(frames.MetricsText(no, self._serving.metrics()))
                case frames.Stop(drain_seconds):
                    await self._drain(drain_seconds)
                    return
        await asyncio.Event().wait()  # the server is gone without a word: the watch ends this process

    def _start(self, no: int, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks[no] = task
        task.add_done_callback(lambda _task: self._tasks.pop(no, None))

    async def _answer(self, ask: frames.Ask) -> None:
        try:
            await self._send(await answering.answer(self._serving, ask))
            self._answers += 1
        except EngineDied:
            self._died.set()
        except Exception as error:  # noqa: BLE001 (one request must not take the host down)
            await self._send(frames.Unavailable(ask.no, f"the engine's front failed: {type(error).__name__}: {error}"))

    async def _stream(self, ask: frames.Ask) -> None:
        try:
            async for frame in answering.stream(self._serving, ask):
                await self._send(frame)
            self._answers += 1
        except EngineDied:
            self._died.set()
        except Exception as error:  # noqa: BLE001
            await self._send(frames.Unavailable(ask.no, f"the engine's front failed: {type(error).__name__}: {error}"))

    async def _sleep(self, no: int, drain_seconds: float, level: int) -> None:
        await self._drain(drain_seconds)
        await self._obey(no, self._serving.sleep(level))

    async def _obey(self, no: int, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except EngineDied:
            self._died.set()
        except Exception as error:  # noqa: BLE001 (whatever it was, the server ends this engine then)
            await self._send(frames.Unavailable(no, f"{type(error).__name__}: {error}"))
        else:
            await self._send(frames.Done(no))

    async def _drain(self, seconds: float) -> None:
        """Let all but the task that asks for it finish, then cancel them."""
        asking = asyncio.current_task()
        others = [task for task in self._tasks.values() if task is not asking]
        if others and seconds > 0:
            await asyncio.wait(others, timeout=seconds)
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others, timeout=CANCEL_SECONDS)

    async def _pulse(self) -> None:
        """The load, twice a second; also how an engine that dies while idle is noticed."""
        while True:
            await asyncio.sleep(PULSE_SECONDS)
            if self._serving.dead:
                self._died.set()
                return
            pulse = self._serving.pulse()
            await self._send(self._metered(pulse if self._tasks else idle(pulse)))

    def _metered(self, pulse: frames.Pulse) -> frames.Pulse:
        """With what answering has cost in this process: vLLM's front runs here, its engine in others."""
        return msgspec.structs.replace(pulse, front_cpu_seconds=time.process_time(), answers=self._answers)

    async def _send(self, frame: frames.FromHost) -> None:
        await send(self._outgoing, frame)


def idle(pulse: frames.Pulse) -> frames.Pulse:
    """vLLM's figures are those of its last step, which had something to do: nothing is asked now."""
    return msgspec.structs.replace(pulse, running=0, waiting=0, kv_use=0.0)


async def send(outgoing: FrameWriter, frame: frames.FromHost) -> None:
    """Write one frame; a server that is gone is the watch's business."""
    try:
        outgoing.send(frame)
        if outgoing.unsent_bytes > WRITE_BUFFER_BYTES:
            await outgoing.drain()
    except ConnectionError:
        return


async def report_processes(outgoing: FrameWriter) -> None:
    marks = await asyncio.to_thread(processes.tree_of, os.getpid(), "host")
    remember(mark.pid for mark in marks)
    await send(outgoing, frames.Processes([(mark.pid, mark.started_at, mark.what) for mark in marks]))


async def main(fd: int, open_serving: OpenServing) -> int:
    """Serve on the inherited socket until the server or the engine is gone; returns the exit code."""
    reader, writer = await asyncio.open_unix_connection(sock=socket.socket(fileno=fd))
    outgoing = FrameWriter(writer)
    incoming = aiter(FrameReader(reader, frames.decode_to_host))
    launch = await anext(incoming, None)
    if not isinstance(launch, frames.Launch):
        return 0
    try:
        async with open_serving(launch) as (serving, facts):
            await report_processes(outgoing)
            await send(outgoing, facts)
            orderly = await Host(outgoing, serving).run(incoming)
            if not orderly:
                await send(outgoing, frames.Failed("the engine died", exact=False))
    except Exception as error:  # noqa: BLE001 (whatever it was is the cause of the failed start)
        traceback.print_exc()
        await send(outgoing, frames.Failed(*_cause(error)))
        orderly = False
    finally:
        await _flush(outgoing)
    return 0 if orderly else ENGINE_DEAD_EXIT_CODE


def _cause(error: Exception) -> tuple[str, bool]:
    """One line, and whether it is the root: what happened in a child stands only in the log."""
    from engine.vllm.causes import is_generic, one_line, root_cause

    if type(error).__module__.startswith("engine."):
        return one_line(str(error)), True
    text = f"{type(error).__name__}: {error}"
    return root_cause(text) or one_line(text), not is_generic(text)


async def _flush(outgoing: FrameWriter) -> None:
    try:
        async with asyncio.timeout(CANCEL_SECONDS):
            await outgoing.finish()
    except (OSError, TimeoutError):
        return


def run_host(open_serving: OpenServing) -> None:
    """The life of a host process: the watch on the server first, then the engine."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's business
    die_with_server(0)
    exit_code = ENGINE_DEAD_EXIT_CODE
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            exit_code = runner.run(main(int(sys.argv[1]), open_serving))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        if exit_code:
            end_now(exit_code)


@asynccontextmanager
async def _open_vllm(launch: frames.Launch) -> AsyncIterator[tuple[Serves, frames.Ready]]:
    from engine.vllm.serving import open_serving

    async with open_serving(launch) as opened:
        yield opened


if __name__ == "__main__":
    run_host(_open_vllm)
