"""How long engines took to become ready, remembered over restarts: the night's first minutes are known beforehand."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Mapping
from pathlib import Path

log = logging.getLogger(__name__)

FILE_NAME = "start-seconds.json"
KEPT = 5
UNKNOWN_SECONDS = 120.0
"""Assumed of an engine that has never been started here."""


def expected_seconds(measured: list[float]) -> float:
    """The longest of the last starts, but for one: a first start that also downloaded weights says nothing of later
    ones."""
    if not measured:
        return UNKNOWN_SECONDS
    return sorted(measured)[-2] if len(measured) > 2 else max(measured)


class StartTimes:
    """One small file beside the engines' records. Losing it costs nothing but an estimate."""

    def __init__(self, folder: Path | None = None, measured: Mapping[str, list[float]] | None = None) -> None:
        """`folder` None: remembered for this process only. Reading what is there is `load`'s."""
        self._path = None if folder is None else folder / FILE_NAME
        self._measured = {name: list(seconds) for name, seconds in (measured or {}).items()}
        self._writing = threading.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    def load(cls, folder: Path) -> StartTimes:
        """Blocks. A file that is absent or broken is an empty one."""
        try:
            found = json.loads((folder / FILE_NAME).read_bytes())
            return cls(folder, {str(name): [float(one) for one in seconds] for name, seconds in found.items()})
        except FileNotFoundError:
            return cls(folder)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            log.warning("how long engines took to start is not known any more: %s: %s", FILE_NAME, error)
            return cls(folder)

    def seconds(self, engine: str) -> float:
        return expected_seconds(self._measured.get(engine, []))

    def note(self, engine: str, seconds: float) -> None:
        """From the event loop. The file follows on a thread."""
        self._measured[engine] = [*self._measured.get(engine, []), round(seconds, 3)][-KEPT:]
        if self._path is not None:
            task = asyncio.create_task(asyncio.to_thread(self._write, self._path))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def written(self) -> None:
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _write(self, path: Path) -> None:
        with self._writing:
            text = json.dumps(dict(self._measured))  # the lists in it are replaced, never changed
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                beside = path.with_suffix(".new")
                beside.write_text(text)
                beside.replace(path)  # what is read is always whole
            except OSError as error:
                log.warning("%s could not be written: %s", path, error)
