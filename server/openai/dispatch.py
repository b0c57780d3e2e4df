"""From one engine to the next: who answers an online request, and what is said when nobody can."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from engine.protocol import Engine, EngineOverloaded, EngineUnavailable
from server.context import Api
from server.errors import SERVER_ERROR, ApiError, retry_after
from server.openai.online_call import OnlineCall
from server.settings import RETRY_AFTER_SECONDS_MAX

T = TypeVar("T")

DEATHS_MAX = 2
"""Engines that may go down with one request in flight before it is sent to no other: it could be the cause."""


async def try_engines(api: Api, call: OnlineCall, attempt: Callable[[Engine, int], Awaitable[T]]) -> T:
    """The first answer that an engine gives, least loaded first; each engine is asked once."""
    tried: set[str] = set()
    deaths = 0
    overloaded: EngineOverloaded | None = None
    unavailable: EngineUnavailable | None = None
    while deaths < DEATHS_MAX:
        engine = api.registry.pick(call.model.id, call.model.revision, exclude=tried)
        if engine is None:
            break
        tried.add(engine.name)
        try:
            with api.registry.presence.online(engine.name):
                return await attempt(engine, len(tried))
        except EngineUnavailable as error:
            unavailable = error
            deaths += error.died
        except EngineOverloaded as error:
            overloaded = error
    if overloaded is not None:
        raise _overloaded(call, overloaded)
    raise _unavailable(api, call, unavailable)


def _overloaded(call: OnlineCall, error: EngineOverloaded) -> ApiError:
    return ApiError(
        429,
        f"The model '{call.model.id}' has no room for another request: {error.reason}. Try again shortly.",
        type="requests",
        code="rate_limit_exceeded",
        headers=retry_after(min(error.retry_after_seconds, RETRY_AFTER_SECONDS_MAX)),
    )


def _unavailable(api: Api, call: OnlineCall, error: EngineUnavailable | None) -> ApiError:
    reason = api.registry.outage(call.model.id, call.model.revision) or (error.reason if error else "no engine is free")
    return ApiError(
        503,
        f"The model '{call.model.id}' cannot answer now: {reason}.",
        type=SERVER_ERROR,
        code="engine_unavailable",
        headers=retry_after(api.settings.retry_after_seconds),
    )
