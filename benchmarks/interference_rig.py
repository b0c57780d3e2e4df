"""What a window of `interference` runs on: a server with a real engine, an arm's settings, people at keyboards."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import interference_server, step_log
from benchmarks.form import CouldNotMeasure
from benchmarks.interference_arms import Setting
from benchmarks.interference_figures import Window, window_of
from benchmarks.interference_load import Load, NoLoad
from benchmarks.online_trace import Alone, Arrival
from benchmarks.server_process import ServerProcess, last_lines
from benchmarks.statistics import median
from benchmarks.step_log import Knobs, Step
from engine.vllm.online_first.channel import Channel, Report

CHANNEL_SECONDS_MAX = 30.0

ALONE_REQUESTS, ALONE_TOKENS, ALONE_GAP_SECONDS = 16, 16, 0.3
SETTLE_POLL_SECONDS = 0.2


class Steps:
    """The step log of one engine. Windows are asked for in order: what is older than one is not read again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read = 0

    def between(self, start: float, end: float) -> Sequence[Step]:
        found = step_log.read_steps(self.folder, after=self._read)
        inside = step_log.between(found, start, end)
        if inside:
            self._read += found.index(inside[0])
        return inside

    def running(self, *, since: float) -> int:
        """Requests that held a slot in the last step, 0 when there was none since then."""
        found = step_log.read_steps(self.folder, after=self._read)
        return found[-1].running if found and found[-1].ended_at > since else 0


@dataclass(frozen=True, slots=True)
class Folders:
    """`scratch` is for plans and reports; the others hold what one engine's scheduler class reads and writes."""

    scratch: Path
    chat: Path
    embeddings: Path
    control: Path

    @classmethod
    def under(cls, scratch: Path) -> Folders:
        folders = cls(scratch, scratch / "chat", scratch / "embeddings", scratch / "control.sock")
        for folder in (folders.chat, folders.embeddings):
            folder.mkdir()
            step_log.write_knobs(folder, Knobs())
        return folders


class Rig:
    """A running server, its step logs and the texts to ask. Requests are numbered, so that no prompt of one window is
    found in the prefix cache by another."""

    def __init__(self, server: ServerProcess, folders: Folders, model: str, texts: Sequence[str]) -> None:
        self.server = server
        self.chat = Steps(folders.chat)
        self.embeddings = Steps(folders.embeddings)
        self._folders = folders
        self.scratch = folders.scratch
        self._model = model
        self._texts = texts
        self._asked = 0
        self._channel = _open_channel(server.data_folder / "engines")
        self.load_cpu_seconds = 0.0

    def apply(self, setting: Setting) -> None:
        step_log.write_knobs(
            self._folders.chat, Knobs(setting.step_tokens, setting.is_fcfs, setting.long_prefill_tokens)
        )
        interference_server.tell(self._folders.control, setting)

    def inflight(self) -> int:
        """Batch requests that the chat engine has been given."""
        return interference_server.tell(self._folders.control)

    def reported(self) -> Report:
        return self._channel.reported(Report())

    def wait(self, done: Callable[[], bool], seconds_max: float) -> bool:
        """Whether it came true in time."""
        deadline = time.monotonic() + seconds_max
        while not done():
            if time.monotonic() > deadline:
                return False
            time.sleep(SETTLE_POLL_SECONDS)
        return True

    def window(self, arrivals: Sequence[Arrival], *, settle_seconds: float, seconds: float) -> Window:
        """Play the arrivals after the settling time; without any, just watch the engine."""
        settled_at = time.time() + settle_seconds
        with self._load(arrivals) as load:
            start = load.begin(settled_at)
            time.sleep(max(0.0, start + seconds - time.time()))
            answered = load.answers()
        end = start + seconds
        steps = self.chat.between(start, end)
        return window_of(
            answered,
            start,
            end,
            batch_output=sum(step.batch_output for step in steps),
            batch_prompt=sum(step.batch_prompt for step in steps),
            step_ms=[step.step_us / 1000 for step in steps],
            running=sum(step.running for step in steps) / max(1, len(steps)),
            embedded_tokens=sum(step.batch_prompt for step in self.embeddings.between(start, end)),
        )

    def alone(self) -> Alone:
        """How long an online request takes on the idle engine: what a trace is stretched by."""
        spaced = [
            Arrival(number * (ALONE_GAP_SECONDS + 0.02 * ALONE_TOKENS), ALONE_TOKENS)
            for number in range(ALONE_REQUESTS)
        ]
        found = self.window(spaced, settle_seconds=0.0, seconds=spaced[-1].at + 1.0)
        half = len(found.ttft_ms) // 2  # the first ones warm up
        return Alone(median(found.ttft_ms[half:]) / 1000, median(found.itl_ms[len(found.itl_ms) // 2 :]) / 1000)

    @contextmanager
    def _load(self, arrivals: Sequence[Arrival]) -> Iterator[Load | NoLoad]:
        """People who wait for the word; gone at the end whatever happens."""
        if not arrivals:
            yield NoLoad()
            return
        plan = self.scratch / "plan.json"
        plan.write_text(json.dumps({"url": self.server.url, "requests": self._bodies(arrivals)}))
        load = Load(plan, self.scratch / "sent.json", self.scratch / "online-load.log")
        try:
            load.wait_ready()
            yield load
            self.load_cpu_seconds += load.cpu_seconds
        finally:
            load.stop()

    def _bodies(self, arrivals: Sequence[Arrival]) -> list[dict[str, Any]]:
        requests = []
        for one in arrivals:
            self._asked += 1
            text = self._texts[self._asked % len(self._texts)]
            body = {
                "model": self._model,
                "messages": [{"role": "user", "content": f"({self._asked}) {text}"}],
                "max_tokens": one.output_tokens,
                "temperature": 0,
                "ignore_eos": True,
                "stream": True,
            }
            requests.append({"after_seconds": one.at, "body": body})
        return requests


def _open_channel(engines: Path) -> Channel:
    """The one that the chat engine made when it started."""
    deadline = time.monotonic() + CHANNEL_SECONDS_MAX
    while not (found := sorted(engines.glob("*.channel"))):
        if time.monotonic() > deadline:
            logs = "\n".join(last_lines(path) for path in sorted(engines.glob("*.log")))
            raise CouldNotMeasure(f"no engine of this server takes orders (online_first):\n{logs}")
        time.sleep(SETTLE_POLL_SECONDS)
    return Channel.open(found[0])
