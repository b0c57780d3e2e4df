"""From one engine to the next: who answers an online request, and what is said when nobody can."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import TypeVar

from engine.protocol import Engine, EngineOverloaded, EngineUnavailable
from server.context import Api
from server.errors import SERVER_ERROR, ApiError, retry_after
from server.openai.online_call import OnlineCall
from server.settings import RETRY_AFTER_SECONDS_MAX

T = TypeVar("T")
Attempt = Callable[[Engine, int], Awaitable[T]]

DEATHS_MAX = 2
"""Engines that may go down with one request in flight before it is sent to no other: it could be the cause."""


async def try_engines(api: Api, call: OnlineCall, attempt: Attempt[T]) -> T:
    """The first answer that an engine gives, least loaded first; each engine is asked once. A request of the flex tier
    waits for its turn first, and is no presence that others yield to."""
    if not call.flex:
        return await _try_each(api, call, attempt)
    with api.flex.hold():
        return await _try_each(api, call, attempt)


async def _try_each(api: Api, call: OnlineCall, attempt: Attempt[T]) -> T:
    tried: set[str] = set()
    deaths = 0
    overloaded: EngineOverloaded | None = None
    unavailable: EngineUnavailable | None = None
    while deaths < DEATHS_MAX:
        engine = await _next(api, call, tried)
        if engine is None:
            break
        tried.add(engine.name)
        try:
            with _counted(api, call, engine):
                return await attempt(engine, len(tried))
        except EngineUnavailable as error:
            unavailable = error
            deaths += error.died
        except EngineOverloaded as error:
            overloaded = error
    if overloaded is not None:
        raise _overloaded(api, call, overloaded)
    raise _unavailable(api, call, unavailable)


def _counted(api: Api, call: OnlineCall, engine: Engine) -> AbstractContextManager[None]:
    return api.flex.running(engine.name) if call.flex else api.registry.presence.online(engine.name)


async def _next(api: Api, call: OnlineCall, tried: set[str]) -> Engine | None:
    """The engine to ask next; None when all that could answer have been asked."""
    if not call.flex:
        return api.registry.pick(call.model.id, call.model.revision, exclude=tried)
    try:
        async with asyncio.timeout(api.settings.flex_wait_seconds_max):
            return await _next_open(api, call, tried)
    except TimeoutError:
        seconds = api.settings.flex_wait_seconds_max
        raise api.flex.refusal(f"online requests left no room for {seconds:.0f} s") from None


async def _next_open(api: Api, call: OnlineCall, tried: set[str]) -> Engine | None:
    while True:
        names = {engine.name for engine in api.registry.candidates(call.model.id, call.model.revision)} - tried
        closed = {name for name in names if not api.flex.is_open(name)}
        if closed != names or not names:
            return api.registry.pick(call.model.id, call.model.revision, exclude=tried | closed)
        await api.flex.changed()


def _overloaded(api: Api, call: OnlineCall, error: EngineOverloaded) -> ApiError:
    if call.flex:
        return api.flex.refusal(f"the model '{call.model.id}' has no room for another request: {error.reason}")
    return ApiError(
        429,
        f"The model '{call.model.id}' has no room for another request: {error.reason}. Try again shortly.",
        type="requests",
        code="rate_limit_exceeded",
        headers=retry_after(min(error.retry_after_seconds, RETRY_AFTER_SECONDS_MAX)),
    )


def _unavailable(api: Api, call: OnlineCall, error: EngineUnavailable | None) -> ApiError:
    registry, model, revision = api.registry, call.model.id, call.model.revision
    reason = registry.outage(model, revision) or (error.reason if error else "no engine is free")
    absence = registry.absence(model, revision)
    if absence is not None:
        reason = f"it is away ({absence.reason})" if absence.reason else "it is away"
    ready_at, now = registry.ready_at(model, revision), api.now()
    seconds = ready_at - now if ready_at is not None and ready_at > now else api.settings.retry_after_seconds
    return ApiError(
        503,
        f"The model '{model}' cannot answer now: {reason}.",
        type=SERVER_ERROR,
        code="engine_unavailable",
        headers=retry_after(seconds),
    )
