"""Starts, kills and restarts the small model server of `front.py`."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
START_SECONDS_MAX = 60.0


class FrontProcess:
    """The calls block: use them in fixtures, or in a thread."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._port_file = folder / "port"
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """On the port of last time, if there was one."""
        self._port_file.unlink(missing_ok=True)
        module = [sys.executable, "-m", "tests.engine.conformance.front"]
        options = [str(self._port_file), "--port", str(self.port), *self._arguments]
        self._process = subprocess.Popen([*module, *options], cwd=ROOT)
        deadline = time.monotonic() + START_SECONDS_MAX
        while not self._port_file.exists():
            assert self._process.poll() is None, "the small server did not start"
            assert time.monotonic() < deadline, "the small server did not start in time"
            time.sleep(0.01)
        self.port = int(self._port_file.read_text())

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
