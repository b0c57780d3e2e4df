"""`/batches/{id}/schedule`: why a batch runs or waits, and when it should be done. Beyond OpenAI's API."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel

from server.auth import TenantDep
from server.context import ApiDep
from server.openai.batches import find_batch
from server.openai.shapes import error_docs, reply
from store.records import BatchRecord
from store.schedule import EngineSight, Schedule, current

router = APIRouter(tags=["Batches"])


class SchedulePlace(BaseModel):
    place: int | None
    of: int
    ahead_total: int
    ahead: list[str]
    ahead_seconds: float | None
    turn: str | None
    turn_reason: str | None
    share: float | None


class ScheduleWindow(BaseModel):
    name: str
    opens_at: int | None
    closes_at: int | None


class ScheduleEngine(BaseModel):
    name: str
    state: str
    reason: str | None
    online_requests: int
    neighbour_requests: int
    batch_requests: int
    batch_requests_max: int | None
    pressure: str | None

    @classmethod
    def of(cls, sight: EngineSight) -> ScheduleEngine:
        return cls(
            name=sight.name,
            state=sight.state,
            reason=sight.reason,
            online_requests=sight.online,
            neighbour_requests=sight.neighbour,
            batch_requests=sight.inflight,
            batch_requests_max=sight.inflight_max,
            pressure=sight.pressure,
        )


class BatchSchedule(BaseModel):
    """Nothing here is a promise but `expires_at`."""

    object: Literal["batch.schedule"] = "batch.schedule"
    batch_id: str
    status: str
    state: str
    code: str
    reason: str
    as_of: int
    completion_window: str
    expires_at: int
    on_deadline: str
    lines_left: int
    lines_in_flight: int
    work_seconds: float | None
    slack_seconds: float | None
    spare_seconds: float | None
    starts_at: int | None
    ends_at: int | None
    queue: SchedulePlace
    window: ScheduleWindow | None
    engines: list[ScheduleEngine]
    disk: str | None

    @classmethod
    def of(cls, record: BatchRecord, *, now: float) -> BatchSchedule:
        schedule = current(record, at=int(now))
        counts, work, window = record.counts, schedule.work_seconds, schedule.window
        return cls(
            batch_id=record.id,
            status=record.status.value,
            state=schedule.state,
            code=schedule.code,
            reason=schedule.reason,
            as_of=schedule.at,
            completion_window=record.completion_window,
            expires_at=record.expires_at,
            on_deadline=record.on_deadline.value,
            lines_left=max(0, counts.total - counts.completed - counts.failed),
            lines_in_flight=schedule.inflight,
            work_seconds=work,
            slack_seconds=None if work is None else round(record.expires_at - now - work),
            spare_seconds=schedule.spare_seconds,
            starts_at=schedule.starts_at,
            ends_at=schedule.ends_at,
            queue=_queue(schedule),
            window=None
            if window is None
            else ScheduleWindow(name=window.name, opens_at=window.opens_at, closes_at=window.closes_at),
            engines=[ScheduleEngine.of(sight) for sight in schedule.engines],
            disk=schedule.disk,
        )


def _queue(schedule: Schedule) -> SchedulePlace:
    return SchedulePlace(
        place=schedule.place,
        of=schedule.places,
        ahead_total=schedule.ahead_total,
        ahead=list(schedule.ahead),
        ahead_seconds=schedule.ahead_seconds,
        turn=schedule.turn,
        turn_reason=schedule.turn_reason,
        share=schedule.share,
    )


@router.get("/batches/{batch_id}/schedule", response_model=BatchSchedule, responses=error_docs(404))
async def batch_schedule(batch_id: str, api: ApiDep, tenant: TenantDep) -> Response:
    """Why the batch runs or waits just now, its place among the others, and when it should start and end."""
    return reply(BatchSchedule.of(await find_batch(api, tenant, batch_id), now=api.now()))
