"""Sleep that an event can end early, and steps that repeat until they are cancelled."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from store.records import StoreError

log = logging.getLogger(__name__)


async def sleep_until(event: asyncio.Event, seconds: float) -> bool:
    """Wait for the event, at most `seconds`; whether it came.

    Not `asyncio.wait_for`: on Python 3.11 that swallows a cancellation which arrives together with the event.
    """
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False


async def repeat(
    seconds: float,
    step: Callable[[], Awaitable[object]],
    *,
    at_once: bool = False,
    asked: asyncio.Event | None = None,
) -> None:
    """Take a step every `seconds` (the first now if `at_once`), and whenever it is `asked` for; one that fails is
    logged, and the next one follows."""
    asked = asked or asyncio.Event()
    if not at_once:
        await sleep_until(asked, seconds)
    refusal: str | None = None
    while True:
        asked.clear()
        refusal = await attempt(step, refusal)
        await sleep_until(asked, seconds)


async def attempt(step: Callable[[], Awaitable[object]], refusal: str | None = None) -> str | None:
    """Take a step that is taken again anyway; whatever goes wrong is logged. Returns why the store refused it.

    A refusal takes one line, and only when it is not the last one (`refusal`): a disk may be full for hours.
    """
    name = getattr(step, "__qualname__", step)
    try:
        await step()
    except StoreError as error:
        if str(error) != refusal:
            log.error("%s waits for the store: %s", name, error)
        return str(error)
    except Exception:
        log.exception("%s ended unexpectedly; it is tried again", name)
    return None
