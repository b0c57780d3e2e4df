"""`/files`: create, list, retrieve, delete and the bytes themselves."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response

from server import metrics
from server.auth import TenantDep
from server.context import Api, ApiDep
from server.errors import ApiError
from server.ids import new_file_id
from server.openai.content import content_response
from server.openai.incoming import BATCH
from server.openai.paging import After, Limit, edges, page_limit
from server.openai.shapes import FileDeleted, FileList, FileObject, error_docs, reply
from server.openai.uploading import ANCHOR, PURPOSES, SECONDS, Received, receive_upload
from store.markers import reach
from store.records import FileRecord

LINE_ERRORS_HEADER = "x-nightbatch-line-errors"

router = APIRouter(tags=["Files"])

UPLOAD_DOC = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file", "purpose"],
                "properties": {
                    "file": {"type": "string", "format": "binary"},
                    "purpose": {"type": "string", "enum": list(PURPOSES)},
                    ANCHOR: {"type": "string", "enum": ["created_at"]},
                    SECONDS: {"type": "integer", "minimum": 3600, "maximum": 2592000},
                },
            }
        }
    },
}


@router.post(
    "/files",
    response_model=FileObject,
    responses={
        **error_docs(400, 413, 507),
        200: {
            "headers": {
                LINE_ERRORS_HEADER: {
                    "description": "How many lines of a batch input are broken; absent when none is.",
                    "schema": {"type": "integer"},
                }
            }
        },
    },
    openapi_extra={"requestBody": UPLOAD_DOC},
)
async def create_file(request: Request, api: ApiDep, tenant: TenantDep) -> Response:
    """Upload a file. A batch input with broken lines is accepted, as OpenAI does, and a header counts them."""
    received = await receive_upload(request, api)
    record = new_record(received, api, tenant)
    try:
        await api.store.files.insert(record)
    except Exception:
        await api.store.blobs.delete(record.blob)
        raise
    reach("upload.committed")
    metrics.upload_bytes.inc(record.bytes)
    broken = record.summary.error_lines if record.summary else 0
    return reply(FileObject.of(record), headers={LINE_ERRORS_HEADER: str(broken)} if broken else None)


@router.get("/files", response_model=FileList, responses=error_docs(400))
async def list_files(
    api: ApiDep,
    tenant: TenantDep,
    after: After = None,
    limit: Limit = None,
    order: Literal["asc", "desc"] = "desc",
    purpose: Annotated[str | None, Query(max_length=64, description="Only files of this purpose.")] = None,
) -> Response:
    """The tenant's files by creation, newest first unless `order=asc`."""
    settings = api.settings
    page = await api.store.files.list(
        tenant,
        after=after,
        limit=page_limit(limit, default=settings.files_list_limit_default, maximum=settings.files_list_limit_max),
        ascending=order == "asc",
        purpose=purpose,
    )
    data = [FileObject.of(record) for record in page.data]
    return reply(FileList(data=data, has_more=page.has_more, **edges([file.id for file in data])))


@router.get("/files/{file_id}", response_model=FileObject, responses=error_docs(404))
async def retrieve_file(file_id: str, api: ApiDep, tenant: TenantDep) -> Response:
    return reply(FileObject.of(await find_file(api, tenant, file_id)))


@router.delete("/files/{file_id}", response_model=FileDeleted, responses=error_docs(404, 409))
async def delete_file(file_id: str, api: ApiDep, tenant: TenantDep) -> Response:
    """Delete a file and its bytes. 409 while a batch that has not ended reads it."""
    record = await api.store.files.delete(tenant, file_id)
    if record is None:
        raise no_such_file(file_id)
    await api.store.blobs.delete(record.blob)
    return reply(FileDeleted(id=record.id))


@router.get(
    "/files/{file_id}/content",
    response_class=Response,
    responses={
        **error_docs(404, 416),
        200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}},
        206: {
            "description": "The range that was asked for.",
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        },
        304: {"description": "The client's copy (If-None-Match) is the file."},
    },
)
async def file_content(file_id: str, request: Request, api: ApiDep, tenant: TenantDep) -> Response:
    """The bytes, streamed. Honours one `Range`; gzip when asked for and no range is."""
    record = await find_file(api, tenant, file_id)
    return await content_response(request.headers, record, api.store, gzip_bytes_min=api.settings.gzip_bytes_min)


async def find_file(api: Api, tenant: str, file_id: str) -> FileRecord:
    record = await api.store.files.get(tenant, file_id)
    if record is None:
        raise no_such_file(file_id)
    return record


def no_such_file(file_id: str) -> ApiError:
    return ApiError(404, f"No such File object: {file_id[:100]}", param="id", code="file_not_found")


def new_record(received: Received, api: Api, tenant: str) -> FileRecord:
    created_at = int(api.now())
    expires_after = received.expires_after_seconds
    if expires_after is None and received.purpose == BATCH:
        expires_after = api.settings.batch_file_expires_seconds
    return FileRecord(
        id=new_file_id(api.token),
        tenant=tenant,
        purpose=received.purpose,
        filename=received.filename,
        bytes=received.stored.bytes,
        created_at=created_at,
        expires_at=None if expires_after is None else created_at + expires_after,
        blob=received.stored.key,
        summary=received.stored.summary if received.purpose == BATCH else None,
    )
