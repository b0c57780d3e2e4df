"""Sleep that an event can end early."""

from __future__ import annotations

import asyncio


async def sleep_until(event: asyncio.Event, seconds: float) -> bool:
    """Wait for the event, at most `seconds`; whether it came.

    Not `asyncio.wait_for`: on Python 3.11 that swallows a cancellation which arrives together with the event.
    """
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
