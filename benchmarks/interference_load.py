"""The load process of one window, from outside: made ready, told when to begin, asked what it saw."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.form import CouldNotMeasure
from benchmarks.online_load import READY, REQUEST_SECONDS_MAX
from benchmarks.server_process import last_lines

END_SECONDS_MAX = REQUEST_SECONDS_MAX + 120.0
STOP_SECONDS_MAX = 5.0

Sent = tuple[float, Sequence[float]]
"""When a request was sent and when each of its tokens came, in Unix seconds."""


class Load:
    """`wait_ready`, `begin`, `answers`, in this order; `stop` at any time."""

    def __init__(self, plan: Path, output: Path, log: Path) -> None:
        self._output = output
        self._log = log
        self.cpu_seconds = 0.0
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "benchmarks.online_load"),
                    *("--plan", str(plan), "--output", str(output)),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=plan.parent,
                text=True,
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        assert self._process.stdout is not None, "its output is piped"
        if self._process.stdout.readline().strip() != READY:
            raise CouldNotMeasure(f"the load generator did not start:\n{last_lines(self._log)}")

    def begin(self, not_before: float) -> float:
        """When it begins: then, or as soon as it can."""
        assert self._process.stdin is not None, "its input is piped"
        assert self._process.stdout is not None, "its output is piped"
        self._process.stdin.write(f"{not_before}\n")
        self._process.stdin.close()
        said = self._process.stdout.readline()
        if not said:
            raise CouldNotMeasure(f"the load generator did not begin:\n{last_lines(self._log)}")
        return float(said)

    def answers(self) -> list[Sent]:
        """What it saw, when all is answered. A request that was not makes the window no measurement."""
        try:
            code = self._process.wait(END_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            raise CouldNotMeasure(f"online requests were not answered within {END_SECONDS_MAX:.0f} s") from None
        if code != 0:
            raise CouldNotMeasure(f"the load generator ended with exit code {code}:\n{last_lines(self._log)}")
        report = json.loads(self._output.read_bytes())
        failed = [one["error"] for one in report["requests"] if one["error"]]
        if failed:
            raise CouldNotMeasure(f"{len(failed)} online requests were not answered: {failed[0]}")
        self.cpu_seconds = report["cpu_seconds"]
        return [(one["sent_at"], one["tokens_at"]) for one in report["requests"]]

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(STOP_SECONDS_MAX)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


class NoLoad:
    """Of a window without online requests."""

    def begin(self, not_before: float) -> float:
        return max(not_before, time.time())

    def answers(self) -> list[Sent]:
        return []
