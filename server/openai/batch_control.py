"""`/batches/{id}/pause` and `/resume`: beyond OpenAI's API, for whoever has to free an engine for a while."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from server.auth import TenantDep
from server.bodies import JSON_SETTING, read_body
from server.context import Api, ApiDep
from server.errors import NO_RETRY, ApiError
from server.openai.batches import find_batch
from server.openai.shapes import BatchObject, error_docs, reply
from store.records import HELD, BatchRecord

router = APIRouter(tags=["Batches"])


@router.post("/batches/{batch_id}/pause", response_model=BatchObject, responses=error_docs(404, 409, 413))
async def pause_batch(batch_id: str, request: Request, api: ApiDep, tenant: TenantDep) -> Response:
    """Take a batch from the engines until it is resumed. Finished lines keep their results, lines in flight run again
    later, the deadline still counts. Pausing twice is no error; 409 once the batch ends or has ended."""
    await _read(request, api)
    held = await api.store.batches.hold(tenant, batch_id, reason=HELD, at=int(api.now()))
    return await _changed(held, batch_id, api, tenant, "pause")


@router.post("/batches/{batch_id}/resume", response_model=BatchObject, responses=error_docs(404, 409, 413))
async def resume_batch(batch_id: str, request: Request, api: ApiDep, tenant: TenantDep) -> Response:
    """End a pause that was asked for. A batch that waits for something else (an engine, the disk, an off-peak window)
    goes on waiting for that. Resuming a batch that is not paused is no error."""
    await _read(request, api)
    return await _changed(await api.store.batches.let_go(tenant, batch_id), batch_id, api, tenant, "resume")


async def _read(request: Request, api: Api) -> None:
    """Like cancel: official clients send an empty body labelled JSON; whatever is sent means the same."""
    await read_body(request, bytes_max=api.settings.json_body_bytes_max, setting=JSON_SETTING)


async def _changed(record: BatchRecord | None, batch_id: str, api: Api, tenant: str, verb: str) -> Response:
    if record is None:
        found = await find_batch(api, tenant, batch_id)
        raise ApiError(
            409,
            f"Cannot {verb} batch {found.id}: its status is '{found.status.value}'. Only a batch that is validating or "
            "in progress can be paused and resumed.",
            code="batch_not_pausable",
            headers=NO_RETRY,
        )
    api.wake()
    return reply(BatchObject.of(record))
