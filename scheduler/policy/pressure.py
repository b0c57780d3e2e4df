"""How much batch work an engine gets while online requests are about, judged from outside. Pure.

A stock engine admits by priority, but what runs already takes part in every step: only what is in flight can be bounded
from here. Moves down are fast, moves up are slow, and between them lies a wide band in which nothing moves: a bound
that follows every sample does worse than a fixed one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum

from engine.slo import Slo
from scheduler.policy.step_fit import StepFit

GAP_WEIGHT = 0.2
"""Weight of the newest gap between online requests in the usual one."""

UNSEEN = StepFit()


@dataclass(frozen=True, slots=True)
class PressureSettings:
    """`stress` is what an online request waits, as a multiple of what it should: above `stress_high` the bound is cut,
    below `stress_low` it may grow."""

    inflight_min: int = 1
    """Batch requests that run beside online ones whatever these feel, so that a batch goes on."""
    inflight_untrusted: int = 8
    """Batch requests beside online ones while the engine's step times are not known yet."""
    online_slots: int = 2
    """Slots of an engine that batch work leaves free while online requests come now and then."""
    prefills_max: int = 1
    """Batch prompts that are read at once beside online requests: each takes a part of every step until it is read."""
    quiet_seconds: float = 120.0
    """After so long without an online request on its device, the engine is the batch's alone."""

    excess_multiple: float = 2.0
    """What is bounded from outside the engine acts late: the time that an `auto` SLO adds to an online token is
    multiplied by this (1.5 times what it takes alone becomes 2 times)."""
    idle_factor: float = 5.0
    """Between online requests a step may take so many times what it takes with one: the next one waits for it."""
    p99_share: float = 0.7
    """Part of a p99 target that the mean step may take."""

    stress_low: float = 0.75
    stress_high: float = 1.25
    cut_min: float = 0.5
    """The most that one move down leaves, as a share."""
    rise_factor: float = 1.15
    trim_min: float = 0.1
    trim_max: float = 4.0
    settle_seconds: float = 0.5
    """Between a move down and the next: what was done must be seen first."""
    rise_seconds: float = 2.0
    """Between two moves up."""
    unfelt_seconds: float = 30.0
    """Between two moves up, as far as the bound that nothing has corrected, while nobody tells what online requests
    feel: what was felt once is no reason for ever."""
    refill_seconds: float = 10.0
    """From nothing to a full engine once online requests have gone."""
    linger_factor: float = 1.0
    linger_seconds_min: float = 0.5
    linger_seconds_max: float = 5.0
    """The bound stays for this many times the usual gap between online requests: a gap that is longer than usual is
    likely to last."""

    def __post_init__(self) -> None:
        if self.inflight_min < 1 or self.inflight_untrusted < self.inflight_min or self.online_slots < 0:
            raise ValueError(
                "inflight_min must be 1 or more, inflight_untrusted not below it, online_slots not negative"
            )
        if not 0 < self.stress_low < 1 < self.stress_high or self.idle_factor <= 1:
            raise ValueError("stress_low must be below 1, stress_high and idle_factor above it")


class Phase(StrEnum):
    ALONE = "alone"
    """No online request for a long time, or ever: no bound."""
    BESIDE = "beside"
    """Online requests are on the engine."""
    NEIGHBOUR = "neighbour"
    """Online requests are on another engine of its device."""
    LINGERING = "lingering"
    """They have just gone, and the next ones may be near."""
    RISING = "rising"
    """They have been gone for longer than usual."""


@dataclass(frozen=True, slots=True)
class Signs:
    """What is seen of one engine at one moment.

    `online` are its online requests, `beside` those on other engines of its device; `inflight` are the batch's
    sub-requests, of which `inflight_max` fit. `others` run on the engine and are not the batch's. `slots` is None where
    an engine does not say how many requests it runs at once. `stress` and `step_ms_target` are None while unknown.
    """

    now: float
    online: int
    beside: int
    quiet_seconds: float | None
    inflight: int
    inflight_max: int
    slots: int | None = None
    others: int = 0
    waiting: int = 0
    stress: float | None = None
    step_ms_target: float | None = None
    fit: StepFit = UNSEEN

    @property
    def room(self) -> int:
        return self.inflight_max if self.slots is None else min(self.inflight_max, self.slots)


@dataclass(frozen=True, slots=True)
class Pressure:
    """The bound on one engine, and what is remembered to move it. `cap` None: no bound.

    `trim` corrects what the fit says by what online requests felt; `trim_neighbour` does so for those on other engines,
    whose steps the fit knows nothing of.
    """

    phase: Phase = Phase.ALONE
    cap: int | None = None
    level: float = 0.0
    """The bound before rounding: slow moves would be lost in whole numbers."""
    trim: float = 1.0
    trim_neighbour: float = 1.0
    is_onset: bool = False
    """An online request has just come to an engine that had none."""
    trusted: bool = False
    moved_at: float = -math.inf
    arrived_at: float | None = None
    """Since when no more has been in flight beside online requests than the bound says: what these felt before tells
    of other work. None while it has not drained to the bound yet."""
    at: float = 0.0
    quiet_seconds: float | None = None
    gap_seconds: float | None = None
    """Between online requests, as is usual (geometric mean)."""


def decide(before: Pressure, signs: Signs, settings: PressureSettings) -> Pressure:
    """The bound from now on. Called at every change of presence, and many times a second while there is any."""
    phase = phase_of(before, signs, settings)
    now = replace(
        before,
        phase=phase,
        is_onset=phase is Phase.BESIDE and before.phase is not Phase.BESIDE,
        at=signs.now,
        quiet_seconds=signs.quiet_seconds,
        gap_seconds=_gap(before, signs, settings),
        arrived_at=_arrived_at(before, signs, phase),
    )
    if phase is Phase.ALONE:
        return replace(now, cap=None, level=float(signs.inflight_max))
    level = before.level if before.cap is not None else float(signs.inflight_max)
    if phase is Phase.BESIDE:
        now = _felt(now, signs, settings, neighbour=False)
        level = _upwards(level, _beside(signs, settings) * now.trim, before, signs, settings)
    elif phase is Phase.NEIGHBOUR:
        now = _felt(now, signs, settings, neighbour=True)
        level = _upwards(level, settings.inflight_untrusted * now.trim_neighbour, before, signs, settings)
    elif phase is Phase.RISING:
        level = _upwards(level, _between(signs, settings) * min(1.0, now.trim), before, signs, settings)
    level = min(level, _shared(signs, settings))
    return replace(now, level=level, cap=max(settings.inflight_min, int(level)))


def phase_of(before: Pressure, signs: Signs, settings: PressureSettings) -> Phase:
    if signs.online:
        return Phase.BESIDE
    if signs.beside:
        return Phase.NEIGHBOUR
    quiet = signs.quiet_seconds
    if quiet is None or quiet >= settings.quiet_seconds:
        return Phase.ALONE
    return Phase.LINGERING if quiet < linger_seconds(before, settings) else Phase.RISING


def _arrived_at(before: Pressure, signs: Signs, phase: Phase) -> float | None:
    if phase not in (Phase.BESIDE, Phase.NEIGHBOUR) or before.cap is None or signs.inflight > before.cap + 1:
        return None
    return signs.now if before.arrived_at is None else before.arrived_at


def linger_seconds(pressure: Pressure, settings: PressureSettings) -> float:
    if pressure.gap_seconds is None:
        return settings.linger_seconds_max
    usual = settings.linger_factor * pressure.gap_seconds
    return min(max(usual, settings.linger_seconds_min), settings.linger_seconds_max)


def _gap(before: Pressure, signs: Signs, settings: PressureSettings) -> float | None:
    """The usual gap, with the one that has just ended. Pauses so long that the engine was the batch's do not count."""
    is_onset = bool(signs.online or signs.beside) and before.quiet_seconds is not None and before.quiet_seconds > 0
    if not is_onset or before.phase is Phase.ALONE:
        return before.gap_seconds
    assert before.quiet_seconds is not None
    gap = min(before.quiet_seconds + max(0.0, signs.now - before.at), settings.quiet_seconds)
    if before.gap_seconds is None:
        return gap
    return math.exp((1 - GAP_WEIGHT) * math.log(before.gap_seconds) + GAP_WEIGHT * math.log(gap))


def _felt(now: Pressure, signs: Signs, settings: PressureSettings, *, neighbour: bool) -> Pressure:
    """Trim by what online requests felt. Nothing moves while an earlier move is still under way."""
    trim = now.trim_neighbour if neighbour else now.trim
    if not neighbour and signs.fit.is_trusted != now.trusted:
        now, trim = replace(now, trusted=signs.fit.is_trusted), 1.0  # it corrected another figure
    stress = signs.stress
    if signs.slots is None and signs.waiting and not neighbour:
        stress = max(stress or 0.0, 1 / settings.cut_min)  # somebody waits for a slot, and it may be an online request
    since = signs.now - max(now.moved_at, signs.now if now.arrived_at is None else now.arrived_at)
    moved = trim
    if stress is not None and now.cap is not None:
        if stress > settings.stress_high and since >= settings.settle_seconds:
            moved = max(settings.trim_min, trim * max(settings.cut_min, 1 / stress))
        elif stress < settings.stress_low and signs.inflight >= now.cap * 0.9 and since >= settings.rise_seconds:
            moved = min(settings.trim_max, trim * settings.rise_factor)
    elif stress is None and trim < 1 and since >= settings.unfelt_seconds:
        moved = min(1.0, trim * settings.rise_factor)
    moved_at = signs.now if moved != trim else now.moved_at
    if neighbour:
        return replace(now, trim_neighbour=moved, moved_at=moved_at)
    return replace(now, trim=moved, moved_at=moved_at)


def _beside(signs: Signs, settings: PressureSettings) -> float:
    """Batch requests beside the online ones by the fit alone."""
    if not signs.fit.is_trusted or signs.step_ms_target is None:
        return settings.inflight_untrusted
    return max(settings.inflight_min, signs.fit.running_within(signs.step_ms_target) - signs.others)


def _between(signs: Signs, settings: PressureSettings) -> float:
    """Batch requests while no online one is there but may come at any time."""
    if not signs.fit.is_trusted:
        return settings.idle_factor * settings.inflight_untrusted
    limit_ms = settings.idle_factor * signs.fit.step_ms(1)
    return max(settings.inflight_min, signs.fit.running_within(limit_ms) - signs.others)


def _shared(signs: Signs, settings: PressureSettings) -> int:
    return max(settings.inflight_min, signs.room - settings.online_slots)


def _upwards(level: float, wanted: float, before: Pressure, signs: Signs, settings: PressureSettings) -> float:
    """Down at once, up only as fast as an engine is refilled."""
    step = _shared(signs, settings) * max(0.0, signs.now - before.at) / settings.refill_seconds
    return min(wanted, level + step)


def step_ms_target(fit: StepFit, slo: Slo, settings: PressureSettings) -> float | None:
    """What a step with online requests in it may take; None while what it takes alone is not known."""
    if slo.itl_ms_p99 is not None:
        return slo.itl_ms_p99 * settings.p99_share
    factor = 1 + (slo.itl_factor - 1) * settings.excess_multiple
    return fit.step_ms(1) * factor if fit.is_trusted else None


REASONS = {
    Phase.ALONE: "no online requests: no bound",
    Phase.BESIDE: "online requests are on this engine",
    Phase.NEIGHBOUR: "online requests are on another engine of this device",
    Phase.LINGERING: "online requests have just ended",
    Phase.RISING: "online requests ended a while ago: the bound rises",
}
