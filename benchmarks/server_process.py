"""A real child process to measure: started on a free port, waited for, stopped with its group, its last words kept."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from benchmarks.form import CouldNotMeasure

READY_SECONDS_MAX = 600
"""A first start of a real engine converts weights and may compile."""
STOP_SECONDS_MAX = 60
PROBE_SECONDS = 0.05
LOG_LINES_SHOWN = 12
SETTINGS_PREFIX = "NIGHTBATCH_"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def last_lines(path: Path, count: int = LOG_LINES_SHOWN) -> str:
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-count:])
    except OSError:
        return ""


class ChildProcess:
    """A command in a session of its own, its output in a file; `cores` binds it and all it starts."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        folder: Path,
        name: str,
        environment: Mapping[str, str] | None = None,
        cores: Collection[int] | None = None,
    ) -> None:
        self._command = list(command)
        self._folder = folder
        self._environment = {**without_settings(os.environ), **(environment or {})}
        self._cores = cores
        self._process: subprocess.Popen[bytes] | None = None
        self.name = name
        self.log_path = folder / f"{name}.log"

    @property
    def pid(self) -> int:
        return self._running().pid

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise CouldNotMeasure(f"{self.name} was not started")
        return self._process

    def start(self) -> None:
        with self.log_path.open("wb") as log:
            self._process = self._spawn(log)

    def _spawn(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        before = os.sched_getaffinity(0)
        if self._cores is not None:
            os.sched_setaffinity(0, self._cores)
        try:
            return subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                env=self._environment,
                start_new_session=True,
            )
        except OSError as error:
            raise CouldNotMeasure(f"{self.name} cannot start: {error}") from error
        finally:
            os.sched_setaffinity(0, before)

    def check_alive(self) -> None:
        code = self._running().poll()
        if code is not None:
            raise CouldNotMeasure(f"{self.name} ended with exit code {code}:\n{last_lines(self.log_path)}")

    def wait_for(self, url: str, seconds_max: float = READY_SECONDS_MAX) -> None:
        """Until `url` answers 200."""
        deadline = time.monotonic() + seconds_max
        while time.monotonic() < deadline:
            self.check_alive()
            with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
            time.sleep(PROBE_SECONDS)
        raise CouldNotMeasure(f"{self.name} was not ready after {seconds_max:.0f} s:\n{last_lines(self.log_path)}")

    def wait(self, seconds_max: float) -> None:
        """Until it ends by itself, with exit code 0."""
        try:
            code = self._running().wait(seconds_max)
        except subprocess.TimeoutExpired:
            raise CouldNotMeasure(f"{self.name} still ran after {seconds_max:.0f} s") from None
        if code != 0:
            raise CouldNotMeasure(f"{self.name} ended with exit code {code}:\n{last_lines(self.log_path)}")

    def stop(self) -> None:
        """SIGTERM to the process, and SIGKILL to what is left of its session after a while."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS_MAX)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def kill(self) -> None:
        """SIGKILL to all of its session, as when the machine loses its power; `start` begins anew."""
        process = self._running()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def without_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """What a person configured for a server of theirs must not change what is measured."""
    return {name: value for name, value in environment.items() if not name.startswith(SETTINGS_PREFIX)}


class ServerProcess(ChildProcess):
    """`nightbatch serve` on a data folder of its own, which goes with it; `config` is its nightbatch.toml."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        config: str = "",
        environment: Mapping[str, str] | None = None,
        cores: Collection[int] | None = None,
        ready_seconds_max: float = READY_SECONDS_MAX,
        program: Sequence[str] = ("nightbatch", "serve"),
    ) -> None:
        """`program` is a module with its first arguments, which takes the same `--port` and `--data`."""
        self._scratch = tempfile.TemporaryDirectory(prefix="nightbatch-bench-", ignore_cleanup_errors=True)
        folder = Path(self._scratch.name)
        self._port = free_port()
        self._ready_seconds_max = ready_seconds_max
        config_path = folder / "nightbatch.toml"
        config_path.write_text(config)
        super().__init__(
            [
                *(sys.executable, "-P", "-m", *program),
                *("--port", str(self._port), "--data", str(folder / "data"), *arguments),
            ],
            folder=folder,
            name="nightbatch-serve",
            environment={"NIGHTBATCH_CONFIG": str(config_path), **(environment or {})},
            cores=cores,
        )

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        """What an OpenAI client takes as `base_url`."""
        return f"{self.root}/v1"

    @property
    def data_folder(self) -> Path:
        return self._folder / "data"

    def __enter__(self) -> ServerProcess:
        self.start()
        try:
            self.wait_for(f"http://127.0.0.1:{self._port}/readyz", self._ready_seconds_max)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        super().stop()
        self._scratch.cleanup()
