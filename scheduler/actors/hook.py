"""A target that is a command on this machine: run for each event, without a shell."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence

from scheduler.actors.notifier import DeliveryError
from scheduler.actors.webhooks import payload
from store.events import EventRecord

NAME = "on_event"
STDERR_SHOWN_BYTES_MAX = 300


class CommandTarget:
    """The event's JSON is on the command's standard input, its facts in NIGHTBATCH_EVENT_* variables. A command that
    fails or takes longer than `seconds_max` is run again like any other delivery."""

    name = NAME

    def __init__(self, command: Sequence[str], *, seconds_max: float) -> None:
        self._command = tuple(command)
        self._seconds_max = seconds_max

    def wants(self, event: EventRecord) -> bool:
        return True

    async def deliver(self, event: EventRecord) -> None:
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                env={**os.environ, **variables(event)},
                start_new_session=True,
            )
        except OSError as error:
            raise DeliveryError(f"{self._command[0]} cannot be run: {error.strerror or error}") from error
        try:
            async with asyncio.timeout(self._seconds_max):
                _, said = await process.communicate(payload(event))
        except TimeoutError:
            raise DeliveryError(f"{self._command[0]} had not ended after {self._seconds_max:.0f} s") from None
        finally:
            await _end(process)
        if process.returncode:
            shown = " ".join(said[-STDERR_SHOWN_BYTES_MAX:].decode("utf-8", "replace").split())
            raise DeliveryError(
                f"{self._command[0]} ended with code {process.returncode}" + (f": {shown}" if shown else "")
            )

    async def close(self) -> None:
        pass


def variables(event: EventRecord) -> dict[str, str]:
    return {
        "NIGHTBATCH_EVENT_ID": event.id,
        "NIGHTBATCH_EVENT_TYPE": event.type,
        "NIGHTBATCH_EVENT_BATCH": event.batch_id,
        "NIGHTBATCH_EVENT_TENANT": event.tenant,
    }


async def _end(process: asyncio.subprocess.Process) -> None:
    """Also of what it has started: the group is its own."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
