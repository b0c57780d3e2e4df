"""The way to one engine: its allowance, and the measurements by which it is kept."""

from __future__ import annotations

from scheduler.policy.allowance import FREE, Allowance
from scheduler.policy.duty import CallMeter, Rounds
from scheduler.policy.packer import Budget, Cost, Inflight, fits
from scheduler.policy.prefills import Prefills


class Gate:
    """Told of every request that goes and comes; asked before the next one goes. Times are monotonic seconds."""

    def __init__(self) -> None:
        self.allowance: Allowance = FREE
        self.calls = CallMeter()
        self._rounds = Rounds()
        self._prefills = Prefills()

    def fits(self, budget: Budget, inflight: Inflight, cost: Cost, *, now: float) -> bool:
        allowed = self.allowance
        if allowed is FREE:
            return fits(budget, inflight, cost)
        if self.opens_at(inflight, now=now) > now:
            return False
        if allowed.call is not None and not self._rounds.fits(cost.requests, allowed.call, now=now):
            return False
        if allowed.requests_max is not None and allowed.requests_max < budget.requests_max:
            budget = Budget(allowed.requests_max, budget.tokens_max)
        return fits(budget, inflight, cost)

    def opens_at(self, inflight: Inflight, *, now: float) -> float:
        """Until when nothing goes whatever there is room for; `now` or before: it is open."""
        allowed = self.allowance
        if allowed.call is not None:
            return self._rounds.rest_until
        if allowed.prefills_max is not None and inflight.lines:
            return self._prefills.free_at(allowed.prefills_max, now=now)
        return now

    def sent(self, cost: Cost, *, step_ms: float, now: float) -> float:
        """A request goes; until when its prompt is probably read."""
        self.calls.sent(now)
        self._rounds.sent(cost.requests, now=now)
        return self._prefills.started(cost.read_tokens, step_ms=step_ms, now=now)

    def ended(self, cost: Cost, inflight: Inflight, *, answered: bool, now: float) -> None:
        """A request is back, answered or not; `inflight` is what is left."""
        is_idle = inflight.lines == 0
        if answered:
            self.calls.answered(cost.requests, is_idle=is_idle, now=now)
        else:
            self.calls.forget(is_idle=is_idle, now=now)
        self._rounds.ended(self.allowance.call, is_idle=is_idle, now=now)

    def learn(self, cost: Cost, *, seconds: float, output_tokens: int, step_ms: float) -> None:
        """What an answer says of the time in which its prompt was read."""
        each = output_tokens / max(cost.requests, 1)
        self._prefills.answered(cost.read_tokens, seconds=seconds, output_tokens=each, step_ms=step_ms)
