"""One arm on a simulated device in virtual time: no clock, no network, the same every time.

A step lasts what the device says, times a seeded jitter, as on a machine. Between steps the gateway, which stands for
the house around the engine, sends what may go.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from benchmarks.interference_figures import Window
from benchmarks.simulated_gateway import Gateway
from benchmarks.simulated_load import ONLINE, OnlineRequest
from engine.simulated.device import Device, Plan, Progress
from engine.simulated.sequence import SequenceState

JITTER = 0.05
"""Standard deviation of the logarithm of a step's time; a quiet machine's steps scatter as much."""

NEVER = OnlineRequest(math.inf, 1, 1)


@dataclass(slots=True)
class Tally:
    """What happened to the online requests that came within one window, and to the batch in it."""

    ttft_ms: list[float] = field(default_factory=list)
    itl_ms: list[float] = field(default_factory=list)
    present_seconds: float = 0.0
    batch_output: int = 0
    batch_prompt: int = 0


@dataclass(slots=True)
class Present:
    """An online request that is under way; `spoke_at` is when its latest token came."""

    came_at: float
    spoke_at: float | None = None


@dataclass(slots=True, eq=False)
class Run:
    """`windows` of `seconds` each, after one that only warms up: the step model learns, the engine fills."""

    device: Device
    gateway: Gateway
    online: Sequence[OnlineRequest]
    seconds: float
    windows: int
    online_priority: int = ONLINE
    seed: int = 0
    now: float = 0.0
    _present: dict[SequenceState, Present] = field(default_factory=dict)
    _batch: dict[SequenceState, int] = field(default_factory=dict)
    _tallies: list[Tally] = field(default_factory=list)

    def play(self) -> list[Window]:
        chance = random.Random(self.seed)
        self._tallies = [Tally() for _ in range(self.windows + 1)]
        coming = iter([*self.online, NEVER])
        following = next(coming)
        end = self.seconds * (self.windows + 1)
        while self.now < end:
            while following.at <= self.now:
                self._arrive(following)
                following = next(coming)
            turn = self.gateway.turn(self.now, len(self._present))
            self._batch.update(dict.fromkeys(turn.sent, 0))
            for sequence in turn.recalled:  # what it had generated is lost
                self._tally(self.now).batch_output -= self._batch.pop(sequence)
            event_at = min(following.at, turn.look_at, end)
            if self.device.idle:
                self.now = max(event_at, math.nextafter(self.now, math.inf))
                continue
            plan = self.device.plan()
            plan = replace(plan, step_seconds=plan.step_seconds * chance.lognormvariate(0.0, JITTER))
            steps = min(plan.steps, max(1, math.ceil((event_at - self.now) / plan.step_seconds)))
            self._pass(plan, steps)
            self._tell(self.device.apply(plan, steps))
        return [self._window(tally) for tally in self._tallies[1:]]

    def _window(self, tally: Tally) -> Window:
        return Window(
            seconds=self.seconds,
            ttft_ms=tally.ttft_ms,
            itl_ms=tally.itl_ms,
            present_seconds=tally.present_seconds,
            batch_output=tally.batch_output,
            batch_prompt=tally.batch_prompt,
        )

    def _arrive(self, request: OnlineRequest) -> None:
        sequence = SequenceState(request.prompt_tokens, (), request.answer_tokens, self.online_priority, watched=True)
        self._present[sequence] = Present(request.at)
        self.device.add(sequence)

    def _tally(self, at: float) -> Tally:
        return self._tallies[min(self.windows, int(at / self.seconds))]

    def _pass(self, plan: Plan, steps: int) -> None:
        self.now += steps * plan.step_seconds
        self.gateway.step_ms = plan.step_seconds * 1_000
        tally = self._tally(self.now)
        if self._present:
            tally.present_seconds += steps * plan.step_seconds
        tally.batch_prompt += sum(tokens for sequence, tokens in plan.prefill if sequence in self._batch)

    def _tell(self, progress: Progress) -> None:
        for sequence in progress.watched:
            present = self._present[sequence]
            tally = self._tally(present.came_at)
            if present.spoke_at is None:
                tally.ttft_ms.append((self.now - present.came_at) * 1_000)
                self.gateway.first_token(self.now, tally.ttft_ms[-1])
            else:
                tally.itl_ms.append((self.now - present.spoke_at) * 1_000)
                self.gateway.gap(self.now, tally.itl_ms[-1])
            present.spoke_at = self.now
        tally = self._tally(self.now)
        for sequence, known in self._batch.items():
            if sequence.generated != known:
                tally.batch_output += sequence.generated - known
                self._batch[sequence] = sequence.generated
        for sequence in progress.finished:
            if self._present.pop(sequence, None) is None:
                del self._batch[sequence]
                self.gateway.ended(sequence, self.now)
