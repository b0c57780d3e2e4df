"""A target that is a command on this machine: run for each event, without a shell."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Sequence
from typing import IO

from scheduler.actors.notifier import DeliveryError
from scheduler.actors.webhooks import payload
from scheduler.policy.delivering import COMMAND
from store.events import EventRecord

STDERR_SHOWN_BYTES_MAX = 300
READ_BYTES = 64 * 1024
STDERR_SECONDS_MAX = 1.0
"""How long is waited for the last words of a command that has ended: what it left running may hold the other end."""


class CommandTarget:
    """The event's JSON is on the command's standard input, its facts in NIGHTBATCH_EVENT_* variables. A command that
    fails or takes longer than `seconds_max` is run again like any other delivery."""

    name = COMMAND

    def __init__(self, command: Sequence[str], *, seconds_max: float) -> None:
        self._command = tuple(command)
        self._seconds_max = seconds_max

    def wants(self, event: EventRecord) -> bool:
        return True

    async def deliver(self, event: EventRecord) -> None:
        said = bytearray()
        async with _listening(said) as stderr:
            process = await self._start(event, stderr)
            stderr.close()
            try:
                async with asyncio.timeout(self._seconds_max):
                    _give(process, payload(event))
                    await process.wait()
            except TimeoutError:
                raise DeliveryError(f"{self._command[0]} had not ended after {self._seconds_max:g} s") from None
            finally:
                await _end(process)
        if process.returncode:
            shown = " ".join(said.decode("utf-8", "replace").split())
            raise DeliveryError(
                f"{self._command[0]} ended with code {process.returncode}" + (f": {shown}" if shown else "")
            )

    async def _start(self, event: EventRecord, stderr: IO[bytes]) -> asyncio.subprocess.Process:
        try:
            return await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=stderr,
                env={**os.environ, **variables(event)},
                start_new_session=True,
            )
        except OSError as error:
            raise DeliveryError(f"{self._command[0]} cannot be run: {error.strerror or error}") from error

    async def close(self) -> None:
        pass


def variables(event: EventRecord) -> dict[str, str]:
    return {
        "NIGHTBATCH_EVENT_ID": event.id,
        "NIGHTBATCH_EVENT_TYPE": event.type,
        "NIGHTBATCH_EVENT_BATCH": event.batch_id,
        "NIGHTBATCH_EVENT_TENANT": event.tenant,
    }


def _give(process: asyncio.subprocess.Process, event: bytes) -> None:
    """An event fits into the pipe: a command that does not read it delays nothing."""
    assert process.stdin is not None
    process.stdin.write(event)
    process.stdin.close()


@contextlib.asynccontextmanager
async def _listening(said: bytearray) -> AsyncIterator[IO[bytes]]:
    """A pipe for what the command says, so that one that says much neither waits nor fills the memory: `said` has the
    end of it. Not asyncio's own pipe: with that, the end of a command is seen only when nothing it left running holds
    the pipe any longer."""
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb", 0) as ours, os.fdopen(write_end, "wb", 0) as theirs:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), ours
        )
        listening = asyncio.create_task(_listen(reader, said))
        try:
            yield theirs
            await asyncio.wait([listening], timeout=STDERR_SECONDS_MAX)
        finally:
            listening.cancel()
            transport.close()


async def _listen(reader: asyncio.StreamReader, said: bytearray) -> None:
    while some := await reader.read(READ_BYTES):
        said += some
        del said[:-STDERR_SHOWN_BYTES_MAX]


async def _end(process: asyncio.subprocess.Process) -> None:
    """Also of what it has started: the group is its own."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
