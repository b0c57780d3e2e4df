"""Looks at who is online and how the engines do, and hands each desk what it may send."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from engine.protocol import BoundsSteps, Engine, EngineLoad, EngineState, Metered
from engine.registry import Registry
from engine.slo import Slo
from scheduler import metrics
from scheduler.actors.desk import Desk
from scheduler.actors.dispatcher import Dispatcher
from scheduler.policy.allowance import FREE, Allowance, for_decoding, for_pooling
from scheduler.policy.pressure import REASONS, Phase, Pressure, Signs, decide, step_ms_target
from scheduler.policy.step_fit import StepFit
from scheduler.policy.stress import stress
from scheduler.settings import ThrottleSettings

log = logging.getLogger(__name__)

Governor = Callable[[Signs], Allowance]
"""Another policy in the place of ours: what benchmarks compare it with."""

FELT_SECONDS = 5.0
LATE_SECONDS = 2.0
"""What an engine tells of itself is at most so old."""

STEADY = 0.25
STEADY_SECONDS = 1.5
"""Step times are means over a while: they belong to a count of running requests that changed by no more than this part
for so long."""


@dataclass(slots=True)
class Watched:
    """What is remembered of one engine."""

    pressure: Pressure = field(default_factory=Pressure)
    fit: StepFit = field(default_factory=StepFit)
    load: EngineLoad = field(default_factory=EngineLoad)
    at: float | None = None
    running: deque[tuple[float, int]] = field(default_factory=deque)
    stress: float | None = None
    is_warned: bool = False

    def is_steady(self, running: int, now: float) -> bool:
        """About so many have been running for a while."""
        while self.running and self.running[0][0] < now - STEADY_SECONDS:
            self.running.popleft()
        is_long = bool(self.running) and self.running[0][0] <= now - STEADY_SECONDS / 2
        self.running.append((now, running))
        return is_long and all(abs(seen - running) <= max(1.0, STEADY * running) for _, seen in self.running)


@dataclass(frozen=True, slots=True)
class PressureView:
    """One engine as people want to see it. `cap` None: no bound but the engine's own."""

    engine: str
    phase: Phase
    cap: int | None
    inflight: int
    online: int
    neighbour: int
    stress: float | None
    step_ms_target: float | None
    reason: str


class Throttle:
    """`slos` by engine name. Of an engine that puts online requests first by itself, inside its steps, only those on
    other engines of its device matter here. Event loop only."""

    def __init__(
        self,
        registry: Registry,
        dispatcher: Dispatcher,
        settings: ThrottleSettings,
        *,
        slos: Mapping[str, Slo] | None = None,
        monotonic: Callable[[], float],
    ) -> None:
        self.settings = settings
        self._registry = registry
        self._dispatcher = dispatcher
        self._slos = dict(slos or {})
        self._monotonic = monotonic
        self._watched: dict[str, Watched] = {}
        self._governors: dict[str, Governor] = {}
        self._looking = False
        registry.presence.on_change(self._look_unharmed)

    def govern(self, engine: str, governor: Governor | None) -> None:
        """Let another policy rule one engine; None gives it back to ours, which starts anew with what is known of the
        engine's steps."""
        if governor is None:
            self._governors.pop(engine, None)
        else:
            self._governors[engine] = governor
        if engine in self._watched:
            self._watched[engine] = Watched(fit=self._watched[engine].fit)
        self.look()

    async def run(self) -> None:
        while True:
            self._look_unharmed()
            settings = self.settings
            await asyncio.sleep(
                settings.look_seconds if self._registry.presence.anywhere() else settings.idle_look_seconds
            )

    def _look_unharmed(self) -> None:
        """Also called by the first and the last online request of an engine: they are not to fail for it."""
        try:
            self.look()
        except Exception:
            log.exception("the engines could not be looked at; their bounds stay as they are")

    def look(self) -> None:
        """At every engine, now."""
        if self._looking:  # by what an engine's own figures tell of presence, below
            return
        self._looking = True
        try:
            ready = [engine for engine in self._registry.engines() if engine.status().state is EngineState.READY]
            loads = {engine.name: engine.load() for engine in ready}
            for engine in self._registry.engines():
                self._registry.presence.note(engine.name, loads.get(engine.name, EngineLoad()).elsewhere)
            for engine in ready:
                self._measure(engine, loads[engine.name])
            for engine in ready:
                self._bound(engine, loads[engine.name])
        finally:
            self._looking = False

    def views(self) -> Sequence[PressureView]:
        return [self._view(engine) for engine in self._registry.engines() if engine.name in self._watched]

    # --- one engine

    def _of(self, engine: str) -> Watched:
        return self._watched.setdefault(engine, Watched())

    def _slo(self, engine: str) -> Slo:
        return self._slos.get(engine, Slo())

    def _measure(self, engine: Engine, load: EngineLoad) -> None:
        """Add to what is known of the engine's steps, and to the credit of what may be taken back."""
        watched, desk, now = self._of(engine.name), self._dispatcher.desk(engine), self._monotonic()
        if watched.at is not None:
            desk.credit.earn(desk.inflight.requests, now - watched.at, self.settings.take_back)
        watched.at = now
        meters = engine.meters() if isinstance(engine, Metered) else None
        if meters is not None:
            quiet = self._registry.presence.quiet_seconds(engine.name)
            desk.see_pushed_out(meters.pushed_out, is_ours=quiet is None or quiet > LATE_SECONDS)
        before, watched.load = watched.load, load
        is_steady = watched.is_steady(load.running, now)
        if load.step_ms != before.step_ms and is_steady and not self._is_disturbed(engine):
            watched.fit = watched.fit.seen(load.running, load.step_ms, now=now)
            self._warn(engine, watched)

    def _warn(self, engine: Engine, watched: Watched) -> None:
        """Once, of a promise that no bound on batch work can keep."""
        promised_ms, fit = self._slo(engine.name).itl_ms_p99, watched.fit
        if promised_ms is None or watched.is_warned or not fit.is_trusted or promised_ms >= fit.step_ms(1):
            return
        watched.is_warned = True
        log.warning(
            "engine %s: slo.itl_ms_p99 is %g ms, and one token takes %.1f ms without batch work: that gives way as far "
            "as it can, and the promise is broken all the same",
            engine.name,
            promised_ms,
            fit.step_ms(1),
        )

    def _is_disturbed(self, engine: Engine) -> bool:
        """Another engine works on the device: a step takes longer than it takes alone."""
        others = self._neighbours(engine)
        return any(self._registry.presence.on_engine(other.name) for other in others) or any(
            self._dispatcher.desk(other).inflight.lines for other in others
        )

    def _neighbours(self, engine: Engine) -> list[Engine]:
        share = self._registry.presence.share
        return [other for other in self._registry.engines() if other is not engine and share(engine.name, other.name)]

    def _bound(self, engine: Engine, load: EngineLoad) -> None:
        desk, watched = self._dispatcher.desk(engine), self._of(engine.name)
        signs = self._signs(engine, load, desk, watched)
        watched.stress = signs.stress
        governor = self._governors.get(engine.name)
        if governor is not None:
            allowance = governor(signs)
        elif _bounds_steps(engine) and not signs.beside:
            allowance = FREE
        else:
            watched.pressure = decide(watched.pressure, signs, self.settings.pressure)
            allowance = self._allowance(desk, watched.pressure)
        self._dispatcher.allow(desk, allowance)
        self._show(engine, desk, watched, load)

    def _allowance(self, desk: Desk, pressure: Pressure) -> Allowance:
        if desk.pools:
            return for_pooling(pressure.phase, desk.gate.calls.ms_each, self.settings.duty)
        return for_decoding(pressure, self.settings.pressure)

    def _signs(self, engine: Engine, load: EngineLoad, desk: Desk, watched: Watched) -> Signs:
        presence, name = self._registry.presence, engine.name
        within = 0 if _bounds_steps(engine) else presence.on_engine(name)
        return Signs(
            now=self._monotonic(),
            online=within,
            beside=presence.beside(name),
            quiet_seconds=presence.quiet_seconds(name),
            inflight=desk.inflight.requests,
            inflight_max=desk.budget().requests_max,
            slots=engine.limits().slots,
            others=presence.on_engine(name),
            waiting=load.waiting,
            stress=self._stress(engine, watched.pressure),
            step_ms_target=step_ms_target(watched.fit, self._slo(name), self.settings.pressure),
            fit=watched.fit,
        )

    # --- what online requests felt

    def _stress(self, engine: Engine, pressure: Pressure) -> float | None:
        """On the engine itself, or, while there are none, on the others of its device."""
        on_engine = self._registry.presence.on_engine
        if on_engine(engine.name) and not _bounds_steps(engine):
            return self._stress_of(engine, pressure)
        felt = [self._stress_of(other, pressure) for other in self._neighbours(engine) if on_engine(other.name)]
        return max((one for one in felt if one is not None), default=None)

    def _stress_of(self, engine: Engine, pressure: Pressure) -> float | None:
        """Since the last move of the bound took effect: what was felt before speaks of another one."""
        now, meter = self._monotonic(), self._registry.meter
        arrived_at = now - FELT_SECONDS if pressure.arrived_at is None else pressure.arrived_at
        since = max(pressure.moved_at, arrived_at, now - FELT_SECONDS)
        slo = self._slo(engine.name)
        target = step_ms_target(self._of(engine.name).fit, slo, self.settings.pressure)
        felt = stress(
            meter.gaps_ms(engine.name, since=since), meter.ttfts_ms(engine.name), slo=slo, step_ms_target=target
        )
        load = self._of(engine.name).load
        if felt is None and target is not None and load.elsewhere and load.step_ms:
            felt = load.step_ms / target  # nobody measures at those that do not pass through here
        return felt

    # --- for people

    def _show(self, engine: Engine, desk: Desk, watched: Watched, load: EngineLoad) -> None:
        presence, name = self._registry.presence, engine.name
        allowed = desk.gate.allowance
        cap = allowed.requests_max if allowed.call is None else allowed.call.requests
        metrics.INFLIGHT_CAP.labels(name).set(desk.budget().requests_max if cap is None else cap)
        metrics.ONLINE_PRESENT.labels(name, "here").set(presence.on_engine(name) - load.elsewhere)
        metrics.ONLINE_PRESENT.labels(name, "elsewhere").set(load.elsewhere)
        metrics.ONLINE_PRESENT.labels(name, "neighbour").set(presence.beside(name))
        metrics.ONLINE_STRESS.labels(name).set(watched.stress or 0.0)

    def _view(self, engine: Engine) -> PressureView:
        watched, desk = self._of(engine.name), self._dispatcher.desk(engine)
        allowed, presence = desk.gate.allowance, self._registry.presence
        return PressureView(
            engine=engine.name,
            phase=watched.pressure.phase,
            cap=allowed.requests_max if allowed.call is None else allowed.call.requests,
            inflight=desk.inflight.requests,
            online=presence.on_engine(engine.name),
            neighbour=presence.beside(engine.name),
            stress=watched.stress,
            step_ms_target=step_ms_target(watched.fit, self._slo(engine.name), self.settings.pressure),
            reason=REASONS[watched.pressure.phase],
        )


def _bounds_steps(engine: Engine) -> bool:
    return isinstance(engine, BoundsSteps) and engine.bounds_steps
