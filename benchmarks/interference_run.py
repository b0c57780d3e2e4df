"""The course of `interference`: rounds of windows, and what must be settled before each of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import openai

from benchmarks import interference_figures
from benchmarks.backlog import Backlog
from benchmarks.embeddings_backlog import EmbeddingsBacklog
from benchmarks.form import CouldNotMeasure
from benchmarks.interference_arms import ARMS, STATIC_CAP, Setting
from benchmarks.interference_engines import Engines
from benchmarks.interference_figures import Window
from benchmarks.interference_rig import Rig
from benchmarks.online_trace import Arrival
from benchmarks.throughput import order_of
from benchmarks.with_upload import Moved, Transfers

WINDOW_SECONDS_MIN = 5.0
FILL_SECONDS_MAX = 60.0
LEARN_SECONDS = 8.0
"""Batch alone before the first window: the step model needs some steps to be trusted."""

DRAIN_SECONDS_MAX = 15.0
REFILL_SECONDS_MAX = 15.0
FULL_SHARE = 0.9
"""An engine counts as full when this share of its slots is taken."""

SLOTS_ASSUMED = 64


@dataclass(frozen=True, slots=True)
class Plan:
    """How long what takes. Arms in `once` have a window in the first round only."""

    rounds: int
    settle_seconds: float
    seconds: float
    once: frozenset[str] = frozenset()

    @classmethod
    def fitting(
        cls, seconds: float, *, rounds: int, arms: Collection[str], settle_seconds: float, once: frozenset[str]
    ) -> Plan:
        """Windows as long as the time allows."""
        windows = rounds * len(arms) - (rounds - 1) * len(once.intersection(arms))
        return cls(rounds, settle_seconds, max(WINDOW_SECONDS_MIN, seconds / windows - settle_seconds), once)


class Measurement:
    """Plays every round in every arm on one rig."""

    def __init__(
        self,
        rig: Rig,
        api: openai.OpenAI,
        engines: Engines,
        plan: Plan,
        say: Callable[[str], None],
        *,
        given: Sequence[bytes] = (),
    ) -> None:
        """`given` are the lines of the batches, the mixed ones if there are none."""
        self._rig = rig
        self._plan = plan
        self._say = say
        self._slots = engines.slots or SLOTS_ASSUMED
        self._backlog = Backlog(api, engines.models[0], rig.scratch, given)
        self._embeddings = EmbeddingsBacklog(api, engines.embeddings, rig.scratch) if engines.embeddings else None
        self._transfers: Transfers | None = None
        self._api = api
        self._capped = False
        self._paused = False

    def run(self, arms: Mapping[str, Setting], windows: Sequence[Sequence[Arrival]]) -> dict[str, list[Window]]:
        if any(setting.beside == "transfers" for setting in arms.values()):
            self._transfers = Transfers(self._api, self._rig.scratch)
        self._fill()
        measured: dict[str, list[Window]] = {name: [] for name in arms}
        for round_no, arrivals in enumerate(windows):
            for name in order_of(round_no, list(arms)):
                if round_no and name in self._plan.once:
                    continue
                window = self._window(arms[name], arrivals)
                measured[name].append(window)
                self._say(f"round {round_no + 1} of {len(windows)}, {name}: {told(window)}")
        return measured

    def _fill(self) -> None:
        self._backlog.top_up()
        if not self._refill(FILL_SECONDS_MAX):
            raise CouldNotMeasure(f"the engine's slots were not taken after {FILL_SECONDS_MAX:.0f} s of batch work")
        time.sleep(LEARN_SECONDS)

    def _window(self, setting: Setting, arrivals: Sequence[Arrival]) -> Window:
        plan = self._plan
        self._enter(setting)
        began = time.monotonic()
        with self._beside(setting) as done:
            settle = max(0.0, plan.settle_seconds - (time.monotonic() - began))
            window = self._rig.window(arrivals if setting.online else (), settle_seconds=settle, seconds=plan.seconds)
            return replace(window, moved_mib=done())

    def _enter(self, setting: Setting) -> None:
        """What was emptied is filled again first, what is to be emptied is waited for: neither belongs to a window."""
        if setting.beside != "batch":
            self._empty()
            self._rig.apply(setting)
            return
        if self._paused:
            self._backlog.resume()
        self._backlog.top_up()
        if self._paused or (setting.cap == "none" and (self._capped or not setting.bounds_steps)):
            self._refill(REFILL_SECONDS_MAX)
            self._capped = self._paused = False
        self._rig.apply(setting)
        if setting.cap == "static":
            self._rig.wait(lambda: self._rig.inflight() <= STATIC_CAP, DRAIN_SECONDS_MAX)
        self._capped = self._capped or setting.cap != "none"

    def _empty(self) -> None:
        if not self._paused:
            self._backlog.pause()
            self._paused = True
        if not self._rig.wait(lambda: self._rig.inflight() == 0, DRAIN_SECONDS_MAX):
            raise CouldNotMeasure(f"paused batches still had requests in flight after {DRAIN_SECONDS_MAX:.0f} s")

    def _refill(self, seconds_max: float) -> bool:
        """At full speed, until the slots are taken; False when that takes too long."""
        since = time.time()
        self._rig.apply(ARMS["batch_alone"])
        return self._rig.wait(lambda: self._rig.chat.running(since=since) >= FULL_SHARE * self._slots, seconds_max)

    @contextmanager
    def _beside(self, setting: Setting) -> Iterator[Callable[[], float]]:
        """What runs beside the online requests other than the chat engine's batch; gives what was moved, in MiB."""
        if setting.beside == "embeddings":
            if self._embeddings is None:
                raise CouldNotMeasure(f"{setting.name}: there is no embeddings engine")
            with self._embeddings.lasting(self._plan.settle_seconds + self._plan.seconds):
                yield lambda: 0.0
        elif setting.beside == "transfers":
            if self._transfers is None:
                raise CouldNotMeasure(f"{setting.name}: there is nothing to transfer")
            with self._transfers.lasting() as end:
                yield lambda: _during(end(), self._plan.seconds)
        else:
            yield lambda: 0.0


def _during(moved: Moved, seconds: float) -> float:
    """MiB, of a time that also has the settling in it."""
    return moved.mib * seconds / moved.seconds


def told(window: Window) -> str:
    parts = [
        f"{window.batch_output / window.seconds:.0f} + {window.batch_prompt / window.seconds:.0f} batch tokens/s",
        f"{window.running:.0f} running",
    ]
    if window.embedded_tokens:
        parts.append(f"{window.embedded_tokens / window.seconds:.0f} embedded tokens/s")
    if window.moved_mib:
        parts.append(f"{window.moved_mib / window.seconds:.0f} MiB/s moved")
    if window.ttft_ms:
        ttft = interference_figures.pooled([window], interference_figures.ttft, 0.5)
        parts.append(f"{len(window.ttft_ms)} online, present {window.present_seconds / window.seconds:.0%}")
        parts.append(f"TTFT p50 {ttft:.0f} ms")
    if window.itl_ms:
        parts.append(f"ITL p50 {interference_figures.pooled([window], interference_figures.itl, 0.5):.1f} ms")
    return "; ".join(parts)
