"""What happened to batches, and its way to whoever asked to hear of it: an outbox.

An event is written by `store.batches.move_batch`, in the transaction in which it happens. It is planned once (a
delivery for each target that wants it), delivered at least once, and forgotten some time after its last delivery.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from store.schema import deliveries, events
from store.sqlite import Database


@dataclass(frozen=True, slots=True)
class EventRecord:
    """`type` is `batch.<final status>`."""

    seq: int
    id: str
    tenant: str
    type: str
    batch_id: str
    created_at: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event for one target; `attempts` have been made."""

    event: EventRecord
    target: str
    attempts: int


@dataclass(frozen=True, slots=True)
class TargetState:
    """The deliveries of one target that are still known."""

    pending: int
    delivered: int
    given_up: int
    last_error: str | None


class Events:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def unplanned(self, limit: int, *, after: int = 0) -> list[EventRecord]:
        """The oldest events that have no deliveries yet, of those whose `seq` is above `after`.

        Events are numbered in the order in which they are written: below one that was planned none comes any more.
        """
        planned = sa.exists().where(deliveries.c.event_id == events.c.id)
        query = sa.select(events).where(events.c.seq > after, ~planned).order_by(events.c.seq).limit(limit)

        def unplanned(connection: Connection) -> list[EventRecord]:
            return [_event(row) for row in connection.execute(query).mappings()]

        return await self._database.read(unplanned)

    async def plan(self, targets: Mapping[str, Sequence[str]], *, tenants: Mapping[str, str], at: float) -> None:
        """Event id -> names of its targets. An event that nobody wants is forgotten."""
        unwanted = [event_id for event_id, names in targets.items() if not names]
        rows = [
            {"event_id": event_id, "target": name, "tenant": tenants[event_id], "next_attempt_at": at}
            for event_id, names in targets.items()
            for name in names
        ]

        def plan(connection: Connection) -> None:
            if unwanted:
                connection.execute(sa.delete(events).where(events.c.id.in_(unwanted)))
            if rows:
                connection.execute(sa.insert(deliveries).prefix_with("OR IGNORE"), rows)

        await self._database.write(plan)

    async def due(self, target: str, *, now: float, limit: int) -> list[Delivery]:
        """What is to be tried now, longest due first."""
        query = (
            sa.select(events, deliveries.c.attempts, deliveries.c.target)
            .select_from(deliveries.join(events, events.c.id == deliveries.c.event_id))
            .where(
                deliveries.c.next_attempt_at.is_not(None),
                deliveries.c.next_attempt_at <= now,
                deliveries.c.target == target,
            )
            .order_by(deliveries.c.next_attempt_at, events.c.seq)
            .limit(limit)
        )

        def due(connection: Connection) -> list[Delivery]:
            rows = connection.execute(query).mappings()
            return [Delivery(_event(row), row["target"], row["attempts"]) for row in rows]

        return await self._database.read(due)

    async def delivered(self, delivery: Delivery, *, at: int) -> None:
        await self._end(delivery, {"delivered_at": at, "next_attempt_at": None})

    async def failed(self, delivery: Delivery, *, error: str, next_attempt_at: float | None, at: int) -> None:
        """`next_attempt_at` None gives up."""
        given_up_at = at if next_attempt_at is None else None
        await self._end(delivery, {"last_error": error, "next_attempt_at": next_attempt_at, "given_up_at": given_up_at})

    async def abandon(self, known: Sequence[str], *, at: int) -> int:
        """Give up what waits for targets that are configured no longer; how many deliveries."""
        gone = (
            sa.update(deliveries)
            .where(deliveries.c.next_attempt_at.is_not(None), deliveries.c.target.not_in(known))
            .values(next_attempt_at=None, given_up_at=at, last_error="its target is configured no longer")
        )
        return await self._database.write(lambda connection: connection.execute(gone).rowcount)

    async def pending(self) -> dict[str, int]:
        """How many deliveries to each target are still to be made."""
        waiting = deliveries.c.next_attempt_at.is_not(None)
        query = (
            sa.select(deliveries.c.target, sa.func.count().label("number")).where(waiting).group_by(deliveries.c.target)
        )

        def pending(connection: Connection) -> dict[str, int]:
            return {row["target"]: row["number"] for row in connection.execute(query).mappings()}

        return await self._database.read(pending)

    async def states(self) -> dict[str, TargetState]:
        """By target. `last_error` is that of the newest event that has not been delivered."""
        missing = deliveries.c.delivered_at.is_(None) & deliveries.c.last_error.is_not(None)
        columns = (
            deliveries.c.target,
            sa.func.count().filter(deliveries.c.next_attempt_at.is_not(None)).label("pending"),
            sa.func.count(deliveries.c.delivered_at).label("delivered"),
            sa.func.count(deliveries.c.given_up_at).label("given_up"),
            sa.func.max(sa.case((missing, events.c.seq))).label("failing"),
        )
        together = deliveries.join(events, events.c.id == deliveries.c.event_id)
        query = sa.select(*columns).select_from(together).group_by(deliveries.c.target)

        def states(connection: Connection) -> dict[str, TargetState]:
            return {
                row["target"]: TargetState(
                    row["pending"], row["delivered"], row["given_up"], _error(connection, row["target"], row["failing"])
                )
                for row in connection.execute(query).mappings().all()
            }

        return await self._database.read(states)

    async def forget(self, *, before: int) -> int:
        """Drop events older than `before` whose deliveries have all ended; how many."""
        open_ones = sa.exists().where(deliveries.c.event_id == events.c.id, deliveries.c.next_attempt_at.is_not(None))
        old = sa.select(events.c.id).where(events.c.created_at < before, ~open_ones)

        def forget(connection: Connection) -> int:
            ids = list(connection.scalars(old.limit(1000)))
            if ids:
                connection.execute(sa.delete(deliveries).where(deliveries.c.event_id.in_(ids)))
                connection.execute(sa.delete(events).where(events.c.id.in_(ids)))
            return len(ids)

        return await self._database.write(forget)

    async def _end(self, delivery: Delivery, values: Mapping[str, Any]) -> None:
        changed = (
            sa.update(deliveries)
            .where(deliveries.c.event_id == delivery.event.id, deliveries.c.target == delivery.target)
            .values(attempts=delivery.attempts + 1, **values)
        )

        def end(connection: Connection) -> None:
            connection.execute(changed)

        await self._database.write(end)


def insert_event(connection: Connection, *, batch_id: str, tenant: str, status: str, at: int) -> None:
    """A batch ends once, so its event's id follows from its own."""
    connection.execute(
        sa.insert(events).values(
            id=f"evt_{batch_id.removeprefix('batch_')}",
            tenant=tenant,
            type=f"batch.{status}",
            batch_id=batch_id,
            created_at=at,
        )
    )


def _error(connection: Connection, target: str, seq: int | None) -> str | None:
    event_id = sa.select(events.c.id).where(events.c.seq == seq).scalar_subquery()
    query = sa.select(deliveries.c.last_error).where(deliveries.c.event_id == event_id, deliveries.c.target == target)
    return None if seq is None else connection.scalar(query)


def _event(row: Any) -> EventRecord:
    return EventRecord(row["seq"], row["id"], row["tenant"], row["type"], row["batch_id"], row["created_at"])
