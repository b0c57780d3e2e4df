"""Brings engines and sends them away, as policy/life.py decides."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from engine.protocol import Engine, EngineState
from engine.registry import Registry, Releasable
from scheduler.actors.waking import sleep_until
from scheduler.facts.capacity import Served
from scheduler.facts.hours import open_at
from scheduler.policy.life import Life, Lives, Release, Turn, Verdict, apart, decide

log = logging.getLogger(__name__)


class EngineLife:
    """Leads the engines of `lives` and no others. `now` is the wall clock: windows follow it, also when it jumps."""

    def __init__(
        self,
        registry: Registry,
        lives: Lives,
        *,
        now: Callable[[], float],
        start_seconds: Callable[[str], float] = lambda _engine: 0.0,
        look_seconds: float = 1.0,
    ) -> None:
        self._registry = registry
        self._lives = lives
        self._now = now
        self._start_seconds = start_seconds
        self._look_seconds = look_seconds
        self._apart = apart(lives.models)
        self._slack: Mapping[str, float] = {}
        self._turns: Mapping[str, Turn] = {}
        self._here: set[str] = set()
        self._leaving: dict[str, asyncio.Task[None]] = {}
        self._unclean: set[str] = set()
        """Engines that failed to leave: they are told again, and nobody else takes their place until they are gone."""
        self._wake = asyncio.Event()

    def want(self, slack: Mapping[str, float]) -> None:
        """The models that batch work waits for, with its least slack. A turn may change at the next look."""
        wanted = {}
        for life in self._lives.models:
            slacks = [slack[name] for name in self._names(life) if name in slack]
            if slacks:
                wanted[life.model] = min(slacks)
        if wanted.keys() != self._slack.keys():
            self._wake.set()
        self._slack = wanted

    def served(self) -> dict[str, Served]:
        """When each led model is there, for whoever estimates what can be done by when."""
        return {name: self._served(life) for life in self._lives.models for name in self._names_of_its_own(life)}

    def draining(self) -> frozenset[str]:
        """The models whose hours are over and that still finish what is in flight."""
        now = self._now()
        return frozenset(
            name
            for life in self._lives.models
            for name in self._names_of_its_own(life)
            if not open_at(life.hours, self._lives.calendar, now) and not all(map(self._gone, life.engines))
        )

    def absent(self) -> frozenset[str]:
        """The models that are not there and have nothing in flight any more."""
        return frozenset(
            name
            for life in self._lives.models
            for name in self._names_of_its_own(life)
            if all(map(self._gone, life.engines))
        )

    def _names(self, life: Life) -> set[str]:
        """The ids under which its engines serve: its own, and those of its adapters."""
        engines = (self._registry.engine(name) for name in life.engines)
        return {life.model, *(info.id for engine in engines if engine is not None for info in engine.models())}

    def _names_of_its_own(self, life: Life) -> set[str]:
        """Without what an engine that nobody leads serves too: an upstream of the same model."""
        others = (engine for engine in self._registry.engines() if engine.name not in life.engines)
        return self._names(life) - {info.id for engine in others for info in engine.models()}

    def _served(self, life: Life) -> Served:
        states = [engine.status().state for name in life.engines if (engine := self._registry.engine(name)) is not None]
        return Served(life.hours, self._start_seconds_of(life), EngineState.READY in states, life.turns)

    def _start_seconds_of(self, life: Life) -> float:
        return max(map(self._start_seconds, life.engines), default=0.0)

    async def run(self) -> None:
        """Until cancelled."""
        while self._lives.models:
            self._wake.clear()
            try:
                await self.look()
            except Exception:  # the next look tries again: engines must not stay where they are for good
                log.exception("the engines' hours could not be looked after")
            await sleep_until(self._wake, self._look_seconds)

    async def look(self) -> None:
        """Send away first, then bring what has room."""
        decision = decide(
            self._lives,
            now=self._now(),
            slack=self._slack,
            busy=self._busy(),
            turns=self._turns,
            start_seconds={life.model: self._start_seconds_of(life) for life in self._lives.models},
            stuck=self._stuck(),
        )
        for group, turn in decision.turns.items():
            if group in self._turns and self._turns[group].model != turn.model:
                log.info("'%s': the turn goes from %s to %s", group, self._turns[group].model, turn.model)
        self._turns = decision.turns
        for life in self._lives.models:
            for name in life.engines:
                if not decision.verdicts[life.model].here:
                    self._send_away(life, name, decision.verdicts[life.model])
        for life in self._lives.models:
            for name in life.engines:
                if decision.verdicts[life.model].here:
                    await self._bring(name)

    async def close(self) -> None:
        """Leave everything as it is; who stops the engines comes next."""
        for task in list(self._leaving.values()):
            task.cancel()
        if self._leaving:
            await asyncio.wait(list(self._leaving.values()))

    def _busy(self) -> frozenset[str]:
        presence = self._registry.presence
        return frozenset(
            life.model for life in self._lives.models if any(presence.on_engine(name) for name in life.engines)
        )

    def _stuck(self) -> frozenset[str]:
        return frozenset(life.model for life in self._lives.models if not self._served(life).is_ready)

    def _send_away(self, life: Life, name: str, verdict: Verdict) -> None:
        engine = self._registry.engine(name)
        if not isinstance(engine, Releasable):
            return
        if name not in self._leaving and not self._gone(name):
            self._here.discard(name)
            self._unclean.discard(name)
            log.info("engine %s leaves: %s", name, verdict.reason, extra={"engine": name})
            task = asyncio.create_task(
                engine.leave(life.drain_seconds, sleep=life.release is Release.SLEEP), name=f"leave {name}"
            )
            self._leaving[name] = task
            task.add_done_callback(lambda done: self._left(name, done))
        engine.explain_absence(verdict.reason, back_at=verdict.back_at)

    def _left(self, name: str, task: asyncio.Task[None]) -> None:
        del self._leaving[name]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("engine %s did not leave, and is told again: %r", name, error, extra={"engine": name})
            self._unclean.add(name)
            return
        self._wake.set()

    async def _bring(self, name: str) -> None:
        engine = self._registry.engine(name)
        if engine is None or name in self._here:
            return
        waits_for = [other for other in self._apart.get(name, ()) if not self._gone(other)]
        if name in self._leaving or waits_for:
            if isinstance(engine, Releasable):
                engine.explain_absence(f"starts when {', '.join(sorted(waits_for) or [name])} is gone", back_at=None)
            return
        self._here.add(name)
        self._unclean.discard(name)
        await engine.start()

    def _gone(self, name: str) -> bool:
        engine = self._registry.engine(name)
        if name in self._here or name in self._leaving or name in self._unclean:
            return False
        return engine is None or _is_gone(engine)


def _is_gone(engine: Engine) -> bool:
    return engine.status().state in (EngineState.AWAY, EngineState.STOPPED)
