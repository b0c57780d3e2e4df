"""From an ask to its answer, around vLLM's serving classes: body prepared, outcome shaped, death told from refusal.

It runs in the host, so that none of this costs the server's loop anything.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Protocol

from engine.answers import error_result, shape_answer, shape_error
from engine.bodies import InvalidBody, prepare_body
from engine.protocol import EngineResult, EngineUnavailable
from engine.vllm.frames import Answer, Ask, Event, FromHost, Pulse, Unavailable

OVERLOADED_STATUSES = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})


class EngineDied(Exception):
    """The engine behind the serving classes is gone; nothing will be answered any more."""


class Serves(Protocol):
    """What a host needs of an engine. `answer` and `stream` raise EngineDied and nothing else."""

    async def answer(self, endpoint: str, body: bytes) -> tuple[int, bytes] | EngineResult:
        """Status and body as vLLM's own class gives them, or an answer that is in OpenAI's shape already."""
        ...

    async def stream(self, endpoint: str, body: bytes) -> tuple[int, bytes] | AsyncIterator[str]:
        """The events, or the refusal that came before the first."""
        ...

    async def sleep(self, level: int) -> None:
        """Free the device's memory; nothing is in flight. Raises what went wrong."""
        ...

    async def wake(self) -> None: ...

    def pulse(self) -> Pulse: ...

    def metrics(self) -> str: ...

    @property
    def dead(self) -> bool: ...


async def answer(serving: Serves, ask: Ask) -> Answer | Unavailable:
    try:
        body = prepare_body(ask.body, model=ask.model, endpoint=ask.endpoint, priority=ask.priority)
    except InvalidBody as error:
        return _refusal(ask, error)
    found = await serving.answer(ask.endpoint, body)
    return _answer(ask, found) if isinstance(found, EngineResult) else _outcome(ask, *found)


async def stream(serving: Serves, ask: Ask) -> AsyncIterator[FromHost]:
    """Events and then an empty answer, or the refusal alone."""
    try:
        body = prepare_body(ask.body, model=ask.model, endpoint=ask.endpoint, priority=ask.priority, stream=True)
    except InvalidBody as error:
        yield _refusal(ask, error)
        return
    events = await serving.stream(ask.endpoint, body)
    if isinstance(events, tuple):
        yield _outcome(ask, *events)
        return
    async for event in events:
        if serving.dead:
            raise EngineDied
        yield Event(ask.no, event.encode())
    yield Answer(ask.no, HTTPStatus.OK, b"")


def _outcome(ask: Ask, status_code: int, body: bytes) -> Answer | Unavailable:
    if status_code in OVERLOADED_STATUSES:
        return Unavailable(ask.no, f"the engine answered {status_code}: {body[:200].decode(errors='replace')}", True)
    if status_code >= HTTPStatus.BAD_REQUEST:
        result = shape_error(status_code, body, ask.endpoint)
    else:
        try:
            result = shape_answer(ask.endpoint, body)
        except EngineUnavailable as error:
            return Unavailable(ask.no, error.reason)
    return _answer(ask, result)


def _answer(ask: Ask, result: EngineResult) -> Answer:
    usage = result.usage
    return Answer(
        ask.no,
        result.status_code,
        result.body,
        usage.prompt_tokens,
        usage.cached_tokens,
        usage.completion_tokens,
    )


def _refusal(ask: Ask, error: InvalidBody) -> Answer:
    result = error_result(HTTPStatus.BAD_REQUEST, str(error), param=error.param)
    return Answer(ask.no, result.status_code, result.body)
