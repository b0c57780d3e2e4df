"""All engines of a server: what they serve, which can serve it now, and why none can."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol, runtime_checkable

from engine.feeding import Feed, Feeding
from engine.online_meter import OnlineMeter
from engine.presence import Presence
from engine.protocol import Engine, EngineError, EngineState, EngineStatus, ModelInfo
from engine.selection import least_loaded, nearest

log = logging.getLogger(__name__)


@runtime_checkable
class Observable(Protocol):
    """An engine that says when its status changed. All of ours do; `status()` is the truth for the others."""

    def on_change(self, callback: Callable[[], None]) -> None: ...


@runtime_checkable
class Releasable(Protocol):
    """An engine that can be sent away and brought back with `start`, see engine.supervisor."""

    async def leave(self, drain_seconds: float, *, sleep: bool = False) -> None: ...

    def explain_absence(self, reason: str, *, back_at: float | None) -> None: ...


class Registry:
    """Several engines may serve one model, and one engine several models. `aliases` are other names of model ids.

    `presence` counts the online requests on them: who sends one says so there. `meter` hears how long they waited for
    their tokens. The engines named in `led` come and go by someone else's word: `start` leaves them alone.
    """

    def __init__(
        self,
        engines: Sequence[Engine],
        aliases: Mapping[str, str] | None = None,
        *,
        presence: Presence | None = None,
        meter: OnlineMeter | None = None,
        led: Collection[str] = (),
    ) -> None:
        names = [engine.name for engine in engines]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"engine names must differ; used more than once: {', '.join(repeated)}")
        self.presence = presence or Presence()
        self.meter = meter or OnlineMeter()
        self.feeding = Feeding()
        self._engines = tuple(engines)
        self._led = frozenset(led)
        self._aliases = dict(aliases or {})
        self._callbacks: list[Callable[[], None]] = []
        self._starting: list[asyncio.Task[None]] = []
        self._turn = 0
        self._last_turn: dict[str, int] = {}
        for engine in self._engines:
            if isinstance(engine, Observable):
                engine.on_change(self._changed)

    def engines(self) -> Sequence[Engine]:
        return self._engines

    def engine(self, name: str) -> Engine | None:
        return next((engine for engine in self._engines if engine.name == name), None)

    def models(self) -> list[ModelInfo]:
        """One entry per model id: what the first ready engine says of it, else the first one that knows it."""
        found: dict[str, ModelInfo] = {}
        for engine in sorted(self._engines, key=lambda engine: not _ready(engine)):
            for model in engine.models():
                found.setdefault(model.id, model)
        return list(found.values())

    def resolve(self, name: str) -> ModelInfo | None:
        """The model behind an id or an alias; None when no engine knows it. An id wins over an alias."""
        by_id = {model.id: model for model in self.models()}
        return by_id.get(name) or by_id.get(self._aliases.get(name, name))

    def candidates(self, model: str, revision: str | None = None) -> list[Engine]:
        """The engines that could take a request for this model now."""
        return [engine for engine in self._engines if _ready(engine) and _serves(engine, model, revision)]

    def pick(
        self, model: str, revision: str | None = None, exclude: Collection[str] = (), *, prefix: int = 0
    ) -> Engine | None:
        """The least loaded candidate that is not excluded by name; for a request with a known `prefix` (0: none) the
        one that has most likely read it, unless that is much fuller."""
        candidates = [engine for engine in self.candidates(model, revision) if engine.name not in exclude]
        picked = nearest(candidates, prefix, self._last_turn) if prefix else least_loaded(candidates, self._last_turn)
        if picked is not None:
            self._turn += 1
            self._last_turn[picked.name] = self._turn
        return picked

    def feeds(self) -> list[Feed]:
        """How the engines are fed, and last this process's event loop, which is before all of them."""
        return [*self.feeding.feeds(self._engines), self.feeding.loop()]

    def outage(self, model: str, revision: str | None = None) -> str | None:
        """Why nothing can serve the model now, as a sentence for people; None when something can."""
        if self.candidates(model, revision):
            return None
        serving = [engine for engine in self._engines if _serves(engine, model, revision)]
        if serving:
            return f"Model '{model}' waits: " + "; ".join(_describe(engine) for engine in serving)
        others = {served.revision for engine in self._engines for served in engine.models() if served.id == model}
        if others:
            return (
                f"Model '{model}' is now served with revision {', '.join(sorted(others))}, "
                f"but revision {revision} is needed"
            )
        unread = [_describe(engine) for engine in self._engines if not engine.models() and not _ready(engine)]
        hint = f" (not reached yet: {'; '.join(unread)})" if unread else ""
        return f"No engine serves model '{model}'{hint}"

    def absence(self, model: str, revision: str | None = None) -> EngineStatus | None:
        """The status of the engine that is back first, when all that serve the model have been sent away; else None."""
        serving = [engine.status() for engine in self._engines if _serves(engine, model, revision)]
        if not serving or any(status.state is not EngineState.AWAY for status in serving):
            return None
        return min(serving, key=lambda status: float("inf") if status.ready_at is None else status.ready_at)

    def ready_at(self, model: str, revision: str | None = None) -> float | None:
        """When a model that cannot answer now should be able to, as far as its engines know."""
        serving = [engine.status().ready_at for engine in self._engines if _serves(engine, model, revision)]
        return min((at for at in serving if at is not None), default=None)

    def on_change(self, callback: Callable[[], None]) -> None:
        """`callback` runs on the event loop whenever an engine's status changes."""
        self._callbacks.append(callback)

    async def start(self) -> None:
        """Start every engine that nobody leads, in the background; who fails says so in its status."""
        self._starting = [
            asyncio.create_task(self._start_one(engine), name=f"start engine {engine.name}")
            for engine in self._engines
            if engine.name not in self._led
        ]

    async def stop(self, drain_seconds: float = 0.0) -> None:
        """Stop every engine, giving what is in flight `drain_seconds` to finish."""
        stops = [engine.stop(drain_seconds) for engine in self._engines]
        outcomes = await asyncio.gather(*stops, return_exceptions=True)
        for starting in self._starting:
            starting.cancel()
        await asyncio.gather(*self._starting, return_exceptions=True)
        for engine, outcome in zip(self._engines, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                log.error("engine %s did not stop cleanly: %r", engine.name, outcome)

    async def _start_one(self, engine: Engine) -> None:
        try:
            await engine.start()
        except EngineError as error:
            log.error("engine %s could not start: %s", engine.name, error)
        except Exception:
            log.exception("engine %s could not start", engine.name)
        self._changed()

    def _changed(self) -> None:
        """Whoever hears of it runs inside of who looks after an engine: that must not end by another's mistake."""
        for callback in self._callbacks:
            try:
                callback()
            except Exception:
                log.exception("a change of an engine's status could not be followed")


def _ready(engine: Engine) -> bool:
    return engine.status().state is EngineState.READY


def _serves(engine: Engine, model: str, revision: str | None) -> bool:
    return any(served.id == model and revision in (None, served.revision) for served in engine.models())


def _describe(engine: Engine) -> str:
    status = engine.status()
    return f"engine {engine.name} is {status.state}" + (f" ({status.reason})" if status.reason else "")
