"""A server in a process of its own for as long as a command needs one: started, waited for, stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

READY_SECONDS_MAX = 900.0
READY_POLL_SECONDS = 0.25
STOP_SECONDS_MAX = 60.0
LOG_LINES_SHOWN = 20
LOG_TAIL_BYTES = 16 * 1024


class ServerFailed(Exception):
    """It ended or never became ready; the message has the end of its log."""


class ChildServer:
    """`nightbatch serve` in a session of its own: Ctrl-C reaches us alone, and we stop it in order."""

    def __init__(self, arguments: Sequence[str], *, port: int, log: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        # -P: a folder named server/ or store/ in the working directory must not be taken for ours.
        self._command = [sys.executable, "-P", "-m", "nightbatch", "serve", "--port", str(port), *arguments]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("NIGHTBATCH_")}
        with self.log.open("wb") as out:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def wait_ready(self, report: Callable[[str], None]) -> None:
        """`report` hears the newest line of the log meanwhile."""
        assert self._process is not None, "start comes first"
        deadline = time.monotonic() + READY_SECONDS_MAX
        while not self._ready():
            code = self._process.poll()
            if code is not None:
                raise ServerFailed(f"the server ended with exit code {code}; {self.log} ends:\n{self._tail()}")
            if time.monotonic() > deadline:
                raise ServerFailed(f"no answer after {READY_SECONDS_MAX:.0f} s; {self.log} ends:\n{self._tail()}")
            report(self._tail(1))
            time.sleep(READY_POLL_SECONDS)

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=5) as answer:  # noqa: S310 (our own address)
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def stop(self) -> int | None:
        """Its exit code; None when it was not running. What does not stop in time is killed with all it started."""
        if self._process is None:
            return None
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            return self._process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            return self._process.wait()

    def _tail(self, count: int = LOG_LINES_SHOWN) -> str:
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - LOG_TAIL_BYTES))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-count:])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running(server: ChildServer) -> Iterator[ChildServer]:
    """Started at the start, stopped at the end whatever happens between."""
    server.start()
    try:
        yield server
    finally:
        server.stop()
