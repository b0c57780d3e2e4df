"""`/uploads`: files that come in parts, in any order and at once, and become one file when they are complete."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from server import metrics
from server.auth import TenantDep
from server.bodies import read_json_object
from server.context import Api, ApiDep
from server.errors import NO_RETRY, ApiError
from server.ids import new_part_id, new_upload_id
from server.openai.files import LINE_ERRORS_HEADER, new_record
from server.openai.joining import MD5, PART_IDS, chosen_parts, join
from server.openai.parts import PART_DOC, receive_part
from server.openai.shapes import FileObject, UploadObject, UploadPartObject, error_docs, reply
from server.openai.upload_params import COMPLETE_DOC, CREATE_DOC, parse_md5, parse_part_ids, parse_upload_params
from store.parts import PartRecord, UploadRecord
from store.records import FileRecord, UploadStatus

router = APIRouter(tags=["Uploads"])


@router.post(
    "/uploads", response_model=UploadObject, responses=error_docs(400, 413, 415, 507), openapi_extra=CREATE_DOC
)
async def create_upload(request: Request, api: ApiDep, tenant: TenantDep) -> Response:
    """Begin a file in parts. It waits for an hour to be completed."""
    body = await read_json_object(request, bytes_max=api.settings.json_body_bytes_max)
    wanted = parse_upload_params(body, api.settings)
    await api.store.disk.room_for_upload(wanted.bytes)
    now = int(api.now())
    record = UploadRecord(
        id=new_upload_id(api.token),
        tenant=tenant,
        purpose=wanted.purpose,
        filename=wanted.filename,
        mime_type=wanted.mime_type,
        bytes=wanted.bytes,
        status=UploadStatus.PENDING,
        created_at=now,
        expires_at=now + api.settings.upload_seconds,
        file_expires_after_seconds=wanted.expires_after_seconds,
    )
    await api.store.parts.create(record)
    return reply(_shape(record, UploadStatus.PENDING))


@router.post(
    "/uploads/{upload_id}/parts",
    response_model=UploadPartObject,
    responses=error_docs(400, 404, 413, 507),
    openapi_extra={"requestBody": PART_DOC},
)
async def add_part(upload_id: str, request: Request, api: ApiDep, tenant: TenantDep) -> Response:
    """Add a part of at most 64 MB. Parts may come at once; one that is sent twice is two parts."""
    _refuse_ended(await _find(api, tenant, upload_id), int(api.now()))
    stored = await receive_part(request, api)
    part = PartRecord(new_part_id(api.token), upload_id, tenant, stored.bytes, int(api.now()), stored.key)
    try:
        await api.store.parts.add(part, parts_max=api.settings.upload_parts_max)
    except Exception:
        await api.store.blobs.delete(stored.key)
        raise
    metrics.upload_bytes.inc(part.bytes)
    return reply(UploadPartObject(id=part.id, created_at=part.created_at, upload_id=upload_id))


@router.post(
    "/uploads/{upload_id}/complete",
    response_model=UploadObject,
    responses=error_docs(400, 404, 413, 415, 507),
    openapi_extra=COMPLETE_DOC,
)
async def complete_upload(upload_id: str, request: Request, api: ApiDep, tenant: TenantDep) -> Response:
    """Join the named parts in their order; the others are deleted. Repeated, it answers with the same file."""
    await _find(api, tenant, upload_id)
    body = await read_json_object(request, bytes_max=api.settings.json_body_bytes_max)
    part_ids, md5 = parse_part_ids(body.get(PART_IDS)), parse_md5(body.get(MD5))
    async with api.store.parts.completing(upload_id):
        upload = await _find(api, tenant, upload_id)
        if upload.status is UploadStatus.COMPLETED:  # by the request that this one repeats
            return reply(_shape(upload, upload.status, await _file_of(api, upload)))
        _refuse_ended(upload, int(api.now()))
        file = await _complete(api, upload, part_ids, md5)
    broken = file.summary.error_lines if file.summary else 0
    headers = {LINE_ERRORS_HEADER: str(broken)} if broken else None
    return reply(_shape(upload, UploadStatus.COMPLETED, file), headers=headers)


@router.post("/uploads/{upload_id}/cancel", response_model=UploadObject, responses=error_docs(400, 404, 409))
async def cancel_upload(upload_id: str, api: ApiDep, tenant: TenantDep) -> Response:
    """Give the upload up and delete its parts. The body is not looked at."""
    upload = await _find(api, tenant, upload_id)
    if api.store.parts.is_completing(upload_id):
        raise ApiError(
            409, f"Upload {upload_id} is being completed. Delete its file later.", code="upload_not_pending",
            headers=NO_RETRY,
        )  # fmt: skip
    for blob in await api.store.parts.cancel(tenant, upload_id, int(api.now())):
        await api.store.blobs.delete(blob)
    return reply(_shape(upload, UploadStatus.CANCELLED))


async def _complete(api: Api, upload: UploadRecord, part_ids: list[str], md5: str | None) -> FileRecord:
    parts = chosen_parts(upload, part_ids, await api.store.parts.of(upload.id))
    file = new_record(await join(api, upload, parts, md5), api, upload.tenant)
    try:
        leftovers = await api.store.parts.complete(upload.id, file)
    except Exception:
        await api.store.blobs.delete(file.blob)
        raise
    for blob in leftovers:
        await api.store.blobs.delete(blob)
    return file


async def _find(api: Api, tenant: str, upload_id: str) -> UploadRecord:
    upload = await api.store.parts.get(tenant, upload_id)
    if upload is None:
        raise ApiError(404, f"No such Upload object: {upload_id[:100]}", param="id", code="upload_not_found")
    return upload


async def _file_of(api: Api, upload: UploadRecord) -> FileRecord | None:
    """None when it has been deleted since."""
    return None if upload.file_id is None else await api.store.files.get(upload.tenant, upload.file_id)


def _refuse_ended(upload: UploadRecord, now: int) -> None:
    status = upload.status
    if status is UploadStatus.PENDING and upload.expires_at <= now:
        status = UploadStatus.EXPIRED  # the reaper comes by once a minute
    if status is not UploadStatus.PENDING:
        raise ApiError(
            400,
            f"Upload {upload.id} is {status.value}: it takes no more changes. Create a new upload.",
            code="upload_not_pending",
        )


def _shape(upload: UploadRecord, status: UploadStatus, file: FileRecord | None = None) -> UploadObject:
    return UploadObject(
        id=upload.id,
        bytes=upload.bytes,
        created_at=upload.created_at,
        expires_at=upload.expires_at,
        filename=upload.filename,
        purpose=upload.purpose,
        status=status.value,
        file=None if file is None else FileObject.of(file),
    )
