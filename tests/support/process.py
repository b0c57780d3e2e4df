"""A real `nightbatch serve` process for tests: start it, wait for it, hurt it, start it again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

import openai

READY_SECONDS_MAX = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class ServerProcess:
    """One data folder, one port, any number of lives. Output of all lives goes to `log`."""

    def __init__(
        self,
        folder: Path,
        *,
        config: str = "",
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.data = folder / "data"
        self.log = folder / "server.log"
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._config = folder / "nightbatch.toml"
        self._config.write_text(config, encoding="utf-8")
        self._arguments = tuple(arguments)
        self._environment = {**os.environ, "NO_COLOR": "1", **(environment or {})}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, *, kill_at: str | None = None, ready: bool = True) -> ServerProcess:
        """Start a life; `kill_at` names a marker (`append.synced:3`) at which it ends itself with SIGKILL."""
        environment = dict(self._environment)
        environment.pop("NIGHTBATCH_KILL_AT", None)
        if kill_at is not None:
            environment["NIGHTBATCH_KILL_AT"] = kill_at
        command = [sys.executable, "-P", "-m", "nightbatch", "serve", "--config", str(self._config)]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--data", str(self.data), *self._arguments]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
            )
        if ready:
            self.wait_ready()
        return self

    def wait_ready(self, seconds: float = READY_SECONDS_MAX) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.tail()}")
            try:
                with urllib.request.urlopen(f"{self.url}/readyz", timeout=2) as reply:
                    if reply.status == 200:
                        return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                pass
            time.sleep(0.05)  # polling a foreign process: there is no event to wait for
        raise AssertionError(f"not ready within {seconds:.0f} s:\n{self.tail()}")

    def client(self, **options: object) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", **options)  # type: ignore[arg-type]

    def get(self, path: str) -> object:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=10) as reply:
            return json.loads(reply.read())

    def metrics(self) -> str:
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=10) as reply:
            text: str = reply.read().decode()
        return text

    def signal(self, number: signal.Signals, *, group: bool = False) -> None:
        assert self.process is not None
        if group:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)

    def wait(self, seconds: float = 60.0) -> int:
        assert self.process is not None
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the server did not end within {seconds:.0f} s:\n{self.tail()}") from None

    def kill(self) -> int:
        """SIGKILL, as a power cut for the process alone."""
        if self.alive:
            self.signal(signal.SIGKILL)
        return self.wait()

    def stop(self) -> int:
        if self.alive:
            self.signal(signal.SIGTERM)
        return self.wait()

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def tail(self, lines: int = 40) -> str:
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])
