"""The house around a simulated engine, in virtual time: what of the batch is in flight, under the real pure policies.

`Gate`, the pressure policy, taking back and the baselines' laws are the server's own; here is only what its actors do
around them. What is taken back goes to the front of the queue and starts anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from engine.simulated.device import Device
from engine.simulated.sequence import SequenceState
from engine.slo import Slo
from scheduler.actors.gate import Gate
from scheduler.policy.allowance import Allowance, for_decoding
from scheduler.policy.packer import Budget, Cost, Inflight
from scheduler.policy.pressure import Pressure, Signs, decide, step_ms_target
from scheduler.policy.step_fit import StepFit
from scheduler.policy.stress import stress
from scheduler.policy.taking_back import Credit, Flying, to_take_back
from scheduler.settings import ThrottleSettings

Governor = Callable[[Signs], Allowance]

FELT_SECONDS = 5.0
TIMES_KEPT = 256
STEADY = 0.25
"""As the server's throttle has them."""


@dataclass(slots=True)
class Flight:
    cost: Cost
    at: float
    read_at: float
    taken_back: int = 0


@dataclass(frozen=True, slots=True)
class Turn:
    """`look_at`: when the next turn is due, if nothing happens before."""

    sent: list[SequenceState]
    recalled: list[SequenceState]
    look_at: float


@dataclass(slots=True, eq=False)
class Gateway:
    """`govern` gives the allowance for what is seen; None: nothing bounds the batch but the engine's own limits."""

    device: Device
    lines: Iterator[SequenceState]
    govern: Governor | None = None
    settings: ThrottleSettings = field(default_factory=ThrottleSettings)
    slo: Slo = field(default_factory=Slo)
    step_ms: float = 0.0
    pressure: Pressure = field(default_factory=Pressure)
    _gate: Gate = field(default_factory=Gate)
    _inflight: Inflight = field(default_factory=Inflight)
    _credit: Credit = field(default_factory=Credit)
    _fit: StepFit = field(default_factory=StepFit)
    _flights: dict[SequenceState, Flight] = field(default_factory=dict)
    _waiting: deque[tuple[SequenceState, int]] = field(default_factory=deque)
    _gaps: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=TIMES_KEPT))
    _ttfts: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=TIMES_KEPT))
    _looked_at: float | None = None
    _running: int = 0
    _online: int = 0
    _online_until: float | None = None

    def feedback(self, signs: Signs) -> Allowance:
        """Ours from outside: the governor of an engine that knows nothing of online first."""
        self.pressure = decide(self.pressure, signs, self.settings.pressure)
        return for_decoding(self.pressure, self.settings.pressure)

    def turn(self, now: float, online: int) -> Turn:
        """Look when it is time to, and when presence begins or ends; send what may go."""
        if self._online and not online:
            self._online_until = now
        is_change = bool(online) != bool(self._online)
        self._online = online
        every = self.settings.look_seconds if online else self.settings.idle_look_seconds
        recalled = []
        if self._looked_at is None or is_change or now >= self._looked_at + every:
            recalled = self._look(now)
        assert self._looked_at is not None
        return Turn(self._send(now), recalled, self._looked_at + every)

    def first_token(self, at: float, ms: float) -> None:
        self._ttfts.append((at, ms))

    def gap(self, at: float, ms: float) -> None:
        self._gaps.append((at, ms))

    def ended(self, sequence: SequenceState, now: float) -> None:
        flight = self._flights.pop(sequence)
        self._inflight.give_back(flight.cost)
        self._gate.ended(flight.cost, self._inflight, answered=True, now=now)
        self._gate.learn(
            flight.cost, seconds=now - flight.at, output_tokens=sequence.output_tokens, step_ms=self.step_ms
        )

    def _look(self, now: float) -> list[SequenceState]:
        if self._looked_at is not None:
            self._credit.earn(self._inflight.requests, now - self._looked_at, self.settings.take_back)
        self._looked_at = now
        running = len(self.device.running)
        if abs(running - self._running) <= max(1.0, STEADY * running):
            self._fit = self._fit.seen(running, self.step_ms, now=now)
        self._running = running
        if self.govern is None:
            return []
        self._gate.allowance = self.govern(self._signs(now))
        return self._take_back(now)

    def _signs(self, now: float) -> Signs:
        target = step_ms_target(self._fit, self.slo, self.settings.pressure)
        quiet = None if self._online_until is None else now - self._online_until
        return Signs(
            now=now,
            online=self._online,
            beside=0,
            quiet_seconds=0.0 if self._online else quiet,
            inflight=self._inflight.requests,
            inflight_max=self._budget.requests_max,
            slots=self.device.profile.running_max,
            others=self._online,
            waiting=self.device.waiting,
            stress=self._stress(now, target),
            step_ms_target=target,
            fit=self._fit,
        )

    def _stress(self, now: float, target: float | None) -> float | None:
        arrived_at = now - FELT_SECONDS if self.pressure.arrived_at is None else self.pressure.arrived_at
        since = max(self.pressure.moved_at, arrived_at, now - FELT_SECONDS)
        gaps = [ms for at, ms in self._gaps if at > since]
        return stress(gaps, [ms for _, ms in self._ttfts], slo=self.slo, step_ms_target=target)

    @property
    def _budget(self) -> Budget:
        profile = self.device.profile
        return Budget(2 * profile.running_max, profile.blocks * profile.block_tokens)

    def _send(self, now: float) -> list[SequenceState]:
        sent: list[SequenceState] = []
        while True:
            if not self._waiting:
                line = next(self.lines, None)
                if line is None:
                    return sent
                self._waiting.append((line, 0))
            sequence, taken_back = self._waiting[0]
            cost = Cost(1, sequence.prompt_tokens + sequence.output_tokens, sequence.prompt_tokens)
            if not self._gate.fits(self._budget, self._inflight, cost, now=now):
                return sent
            self._waiting.popleft()
            self._inflight.take(cost)
            read_at = self._gate.sent(cost, step_ms=self.step_ms, now=now)
            self._flights[sequence] = Flight(cost, now, read_at, taken_back)
            self.device.add(sequence)
            sent.append(sequence)

    def _take_back(self, now: float) -> list[SequenceState]:
        allowed = self._gate.allowance
        cap = allowed.recall_to
        if cap is None:
            return []
        flying = list(self._flights.items())
        views = [
            Flying(1, now - flight.at, flight.taken_back, allowed.recalls_reading and now < flight.read_at)
            for _, flight in flying
        ]
        places = to_take_back(views, cap=cap, credit=self._credit, settings=self.settings.take_back)
        for sequence, flight in (flying[place] for place in places):
            self.device.remove(sequence)
            del self._flights[sequence]
            self._inflight.give_back(flight.cost)
            self._gate.ended(flight.cost, self._inflight, answered=False, now=now)
            anew = replace(sequence, prefilled=0, generated=0, cached_tokens=0, private_blocks=0, prefill_target=0)
            self._waiting.appendleft((anew, flight.taken_back + 1))
        return [flying[place][0] for place in places]
