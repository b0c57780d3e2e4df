"""How fast an engine steps: what the load shows, what the watchdog measures a silence against, how full its time is."""

from __future__ import annotations

from engine.vllm.frames import Pulse

STEP_WEIGHT = 0.1
"""Weight of the newest step in the mean."""

MAX_DECAY = 0.999
"""The maximum forgets half of itself in about 700 steps."""

PAUSE_SECONDS = 5.0
"""After a silence with nothing running, the time to the next report is no step time."""


class Pace:
    """Fed after each engine step. An interval counts as a step only when the engine had work all the while."""

    def __init__(self, now: float) -> None:
        self._at = now
        self._busy = False
        self._running = 0
        self._waiting = 0
        self._kv_use = 0.0
        self._step_ms = 0.0
        self._step_ms_max = 0.0
        self._steps = 0
        self._busy_seconds = 0.0
        self._running_seconds = 0.0
        self._pushed_out = 0

    def stepped(self, now: float, running: int, waiting: int, kv_use: float, *, pushed_out: int = 0) -> None:
        """`running` and `waiting` are what the step left; `pushed_out` lost their memory in it."""
        seconds = now - self._at
        if self._busy:
            step_ms = seconds * 1000
            self._step_ms += STEP_WEIGHT * (step_ms - self._step_ms) if self._step_ms else step_ms
            self._step_ms_max = max(step_ms, self._step_ms_max * MAX_DECAY)
        else:  # the step began at some time in the silence; at once where something was waiting for it
            seconds = min(seconds, PAUSE_SECONDS if self._waiting else self._step_ms / 1000)
        self._busy_seconds += seconds
        self._running_seconds += seconds * max(self._running if self._busy else running, 1)
        self._at, self._running, self._waiting, self._kv_use = now, running, waiting, kv_use
        self._busy = running > 0
        self._steps += 1
        self._pushed_out += pushed_out

    def pulse(self) -> Pulse:
        """Without what the host itself knows."""
        return Pulse(
            self._running,
            self._waiting,
            self._kv_use,
            self._step_ms,
            self._step_ms_max,
            self._steps,
            self._busy_seconds,
            self._running_seconds,
            self._pushed_out,
        )


def silence_seconds_max(step_ms_max: float) -> float:
    """How long an engine with requests in flight may finish no step before it counts as dead."""
    return max(SILENCE_SECONDS_MIN, SILENCE_STEPS * step_ms_max / 1000)


SILENCE_SECONDS_MIN = 30.0
SILENCE_STEPS = 20
