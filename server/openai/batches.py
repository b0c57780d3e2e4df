"""`/batches`: create, retrieve, list and cancel. Everything here is a row; running them is somebody else's work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response

from server.auth import TenantDep
from server.bodies import JSON_SETTING, read_body, read_json_object
from server.context import Api, ApiDep
from server.errors import NO_RETRY, ApiError, invalid, shown
from server.ids import new_batch_id
from server.openai.batch_params import ENDPOINTS, REUSE, BatchParams, parse_batch_params
from server.openai.deadline import FIELD as DEADLINE
from server.openai.idempotency import Repetition, check_same, read_repetition
from server.openai.incoming import BATCH
from server.openai.paging import After, Limit, edges, page_limit
from server.openai.shapes import BatchList, BatchObject, error_docs, reply
from store.markers import reach
from store.records import BATCH_EDGES, BatchRecord, BatchStatus, FileRecord, NewBatch, NotFound, PinnedModel, Reuse

CANCELLABLE = frozenset(status for status, after in BATCH_EDGES.items() if BatchStatus.CANCELLING in after)

router = APIRouter(tags=["Batches"])

CREATE_DOC: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["input_file_id", "endpoint", "completion_window"],
                "properties": {
                    "input_file_id": {"type": "string"},
                    "endpoint": {"type": "string", "enum": list(ENDPOINTS)},
                    "completion_window": {"type": "string", "description": "A configured tier, such as '24h'."},
                    "metadata": {
                        "type": ["object", "null"],
                        "maxProperties": 16,
                        "propertyNames": {"maxLength": 64},
                        "additionalProperties": {"type": "string", "maxLength": 512},
                    },
                    DEADLINE: {
                        "type": ["integer", "string", "null"],
                        "description": "The deadline, Unix seconds or ISO 8601 with a zone, in place of the window's.",
                    },
                    "on_invalid_line": {"type": ["string", "null"], "enum": ["fail", "report", None]},
                    REUSE: {
                        "type": ["string", "null"],
                        "enum": [*(choice.value for choice in Reuse), None],
                        "description": "Lines that ask the same, and would get the same answer, are run once: within "
                        "the 'batch', or also across batches of this 'server'.",
                    },
                    "idempotency_key": {"type": ["string", "null"], "minLength": 1, "maxLength": 255},
                    "output_expires_after": {
                        "type": ["object", "null"],
                        "required": ["anchor", "seconds"],
                        "properties": {
                            "anchor": {"type": "string", "enum": ["created_at"]},
                            "seconds": {"type": "integer", "minimum": 3600, "maximum": 2592000},
                        },
                    },
                },
            }
        }
    },
}


@router.post(
    "/batches",
    response_model=BatchObject,
    responses=error_docs(400, 409, 413, 415),
    openapi_extra={"requestBody": CREATE_DOC},
)
async def create_batch(request: Request, api: ApiDep, tenant: TenantDep) -> Response:
    """Create a batch. What is wrong with the *file's lines* is said later, on the batch."""
    body = await read_json_object(request, bytes_max=api.settings.json_body_bytes_max)
    params = parse_batch_params(body, api.settings, now=api.now())
    repetition = read_repetition(request.headers, body, api.settings)
    file = await _input_file(api, tenant, params.input_file_id)
    new = new_batch(api, tenant, params, file, repetition)
    since = new.created_at - api.settings.repeated_create_seconds if repetition.is_repeat else None
    try:
        record = await api.store.batches.create(new, repeats_since=since)
    except NotFound:  # it was deleted between the two looks
        raise _no_input_file(params.input_file_id) from None
    if record.id != new.id:
        check_same(record, repetition)
        return reply(BatchObject.of(record))
    reach("batch.created")
    api.wake()
    return reply(BatchObject.of(record))


@router.get("/batches", response_model=BatchList, responses=error_docs(400))
async def list_batches(api: ApiDep, tenant: TenantDep, after: After = None, limit: Limit = None) -> Response:
    """The tenant's batches, newest first, each with its first line errors only."""
    settings = api.settings
    page = await api.store.batches.list(
        tenant,
        after=after,
        limit=page_limit(limit, default=settings.batches_list_limit_default, maximum=settings.batches_list_limit_max),
    )
    data = [BatchObject.of(record, errors_max=settings.listed_batch_errors_max) for record in page.data]
    return reply(BatchList(data=data, has_more=page.has_more, **edges([batch.id for batch in data])))


@router.get("/batches/{batch_id}", response_model=BatchObject, responses=error_docs(404))
async def retrieve_batch(batch_id: str, api: ApiDep, tenant: TenantDep) -> Response:
    return reply(BatchObject.of(await find_batch(api, tenant, batch_id)))


@router.post("/batches/{batch_id}/cancel", response_model=BatchObject, responses=error_docs(404, 409, 413))
async def cancel_batch(batch_id: str, request: Request, api: ApiDep, tenant: TenantDep) -> Response:
    """Ask for a batch to stop. Finished lines keep their results; 409 when it has already ended."""
    # Official clients send an empty body labelled JSON; whatever is sent means the same.
    await read_body(request, bytes_max=api.settings.json_body_bytes_max, setting=JSON_SETTING)
    record = await find_batch(api, tenant, batch_id)
    if not record.status.terminal and record.status is not BatchStatus.CANCELLING:
        moved = await api.store.batches.move(
            record.id, expected=CANCELLABLE, to=BatchStatus.CANCELLING, at=int(api.now())
        )
        if moved is not None:
            api.wake()
        record = moved or await find_batch(api, tenant, batch_id)
    if record.status.terminal:
        raise ApiError(
            409,
            f"Cannot cancel batch {record.id}: its status is already '{record.status.value}'.",
            code="batch_not_cancellable",
            headers=NO_RETRY,
        )
    return reply(BatchObject.of(record))


async def find_batch(api: Api, tenant: str, batch_id: str) -> BatchRecord:
    record = await api.store.batches.get(tenant, batch_id)
    if record is None:
        raise ApiError(404, f"No batch found with id {shown(batch_id)}.", param="batch_id", code="batch_not_found")
    return record


async def _input_file(api: Api, tenant: str, file_id: str) -> FileRecord:
    file = await api.store.files.get(tenant, file_id)
    if file is None:
        raise _no_input_file(file_id)
    if file.purpose != BATCH:
        raise invalid(
            "input_file_id", f"the file {file.id} was uploaded with purpose {shown(file.purpose)}, not '{BATCH}'."
        )
    return file


def _no_input_file(file_id: str) -> ApiError:
    return invalid("input_file_id", f"no such File object: {shown(file_id)}.", code="file_not_found")


def new_batch(api: Api, tenant: str, params: BatchParams, file: FileRecord, repetition: Repetition) -> NewBatch:
    created_at = int(api.now())
    return NewBatch(
        id=new_batch_id(api.token),
        tenant=tenant,
        endpoint=params.endpoint,
        input_file_id=file.id,
        completion_window=params.completion_window,
        created_at=created_at,
        expires_at=params.deadline_at or created_at + params.tier.seconds,
        on_deadline=params.tier.on_deadline,
        models=_pinned(api, file),
        metadata=params.metadata,
        output_expires_after_seconds=params.output_expires_after_seconds,
        on_invalid_line=params.on_invalid_line,
        idempotency_key=repetition.key,
        request_digest=repetition.digest,
        deadline_at=params.deadline_at,
        reuse=params.reuse,
    )


def _pinned(api: Api, file: FileRecord) -> Mapping[str, PinnedModel]:
    """What each model name of the input means today. Names that nothing serves are left out: intake says so."""
    names = file.summary.models if file.summary else ()
    resolved = ((name, api.registry.resolve(name)) for name in names)
    return {name: PinnedModel(info.id, info.revision) for name, info in resolved if info is not None}
