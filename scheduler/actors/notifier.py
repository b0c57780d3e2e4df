"""Takes events from the store to their targets, each at its own pace: a slow one delays no other, and none a batch."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from scheduler import metrics
from scheduler.policy.delivering import next_attempt_at
from store import Store
from store.events import Delivery, EventRecord
from store.markers import reach
from store.records import StoreError

log = logging.getLogger(__name__)

EVENTS_AT_ONCE = 500
DELIVERIES_PER_TARGET_MAX = 4
KEPT_SECONDS = 7 * 24 * 3600
"""How long an event whose deliveries have ended can still be looked at."""

ERROR_CHARS_MAX = 500
NOTE_AGAIN_SECONDS = 5.0
"""How long until an outcome is noted again that the store has refused."""


class DeliveryError(Exception):
    """The target did not take the event; the message says why, in one line."""


class Target(Protocol):
    """Somebody who wants to hear of events. `deliver` raises DeliveryError, or anything else for a defect of ours."""

    @property
    def name(self) -> str: ...

    def wants(self, event: EventRecord) -> bool: ...

    async def deliver(self, event: EventRecord) -> None: ...

    async def close(self) -> None: ...


class Notifier:
    """Each event at least once per target: one that was taken just before a crash is sent again, with the same id."""

    def __init__(
        self,
        store: Store,
        targets: Sequence[Target],
        *,
        now: Callable[[], float],
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._targets = targets
        self._now = now
        self._chance = chance
        self._planned_seq = 0
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Once, before the first `look`."""
        gone = await self._store.events.abandon([target.name for target in self._targets], at=int(self._now()))
        if gone:
            log.warning("%d deliveries are given up: their targets are configured no longer", gone)

    async def look(self) -> None:
        """Plan what is new and send what is due."""
        await self._plan()
        for target in self._targets:
            # One that ends while the list is read still stands in it: what was under way before is not due.
            under_way = set(self._tasks)
            room = DELIVERIES_PER_TARGET_MAX - sum(name == target.name for _, name in self._tasks)
            if room > 0:
                # Those under way are due as well: they come first in the list, and are passed over.
                limit = DELIVERIES_PER_TARGET_MAX + room
                for delivery in await self._store.events.due(target.name, now=self._now(), limit=limit):
                    place = (delivery.event.id, target.name)
                    if room > 0 and place not in under_way:
                        room -= 1
                        self._start(place, target, delivery)

    async def report(self) -> None:
        pending = await self._store.events.pending()
        for target in self._targets:
            metrics.DELIVERIES_PENDING.labels(target.name).set(pending.get(target.name, 0))

    async def forget(self) -> None:
        await self._store.events.forget(before=int(self._now()) - KEPT_SECONDS)

    async def close(self) -> None:
        """Stop what is under way; it is tried again after the next start."""
        for task in list(self._tasks.values()):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()))
        for target in self._targets:
            await target.close()

    async def _plan(self) -> None:
        found = await self._store.events.unplanned(EVENTS_AT_ONCE, after=self._planned_seq)
        if found:
            targets = {event.id: [target.name for target in self._targets if target.wants(event)] for event in found}
            tenants = {event.id: event.tenant for event in found}
            await self._store.events.plan(targets, tenants=tenants, at=self._now())
            self._planned_seq = found[-1].seq

    def _start(self, place: tuple[str, str], target: Target, delivery: Delivery) -> None:
        task = asyncio.create_task(self._send(target, delivery), name=f"deliver {place[0]} to {place[1]}")
        self._tasks[place] = task
        task.add_done_callback(lambda _task: self._tasks.pop(place, None))

    async def _send(self, target: Target, delivery: Delivery) -> None:
        event = delivery.event
        extra = {"tenant": event.tenant, "batch": event.batch_id, "target": target.name}
        try:
            await target.deliver(event)
        except DeliveryError as error:
            await self._failed(target, delivery, str(error), extra)
        except Exception as error:
            log.exception("delivering an event ended unexpectedly", extra=extra)
            await self._failed(target, delivery, f"{type(error).__name__}: {error}", extra)
        else:
            reach("event.sent")
            at = int(self._now())
            await self._note(lambda: self._store.events.delivered(delivery, at=at))
            metrics.DELIVERIES.labels(target.name, "delivered").inc()
            log.info("%s delivered to %s", event.type, target.name, extra=extra)

    async def _note(self, write: Callable[[], Awaitable[None]]) -> None:
        """Until it is written: a full disk must not have the same event sent again every second."""
        while True:
            try:
                return await write()
            except StoreError as error:
                log.error("the outcome of a delivery waits for the store: %s", error)
            except Exception:
                log.exception("the outcome of a delivery could not be noted; it is tried again")
            await asyncio.sleep(NOTE_AGAIN_SECONDS)

    async def _failed(self, target: Target, delivery: Delivery, why: str, extra: dict[str, str]) -> None:
        now, event = self._now(), delivery.event
        again_at = next_attempt_at(delivery.attempts + 1, created_at=event.created_at, now=now, chance=self._chance())
        shown = why[:ERROR_CHARS_MAX]
        await self._note(
            lambda: self._store.events.failed(delivery, error=shown, next_attempt_at=again_at, at=int(now))
        )
        metrics.DELIVERIES.labels(target.name, "failed" if again_at else "given_up").inc()
        then = f"tried again in {again_at - now:.0f} s" if again_at else "given up after 72 hours"
        log.warning("%s was not delivered to %s: %s; %s", event.type, target.name, why, then, extra=extra)
