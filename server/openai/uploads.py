"""`/uploads`: files that come in parts, in any order and at once, and become one file when they are complete."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response

from server import metrics
from server.auth import TenantDep
from server.bodies import read_json_object
from server.context import Api, ApiDep
from server.errors import NO_RETRY, ApiError, invalid, missing, shown
from server.ids import new_part_id, new_upload_id
from server.openai import strict
from server.openai.expiry import check_expires_after
from server.openai.files import LINE_ERRORS_HEADER, new_record
from server.openai.incoming import BATCH
from server.openai.joining import MD5, PART_IDS, chosen_parts, join
from server.openai.parts import PART_DOC, receive_part
from server.openai.shapes import FileObject, UploadObject, UploadPartObject, error_docs, reply
from server.openai.uploading import PURPOSES, check_filename, check_purpose
from server.settings import ServerSettings
from store.parts import PartRecord, UploadRecord
from store.records import FileRecord, UploadStatus

EXPIRY = "expires_after"
MD5_PATTERN = re.compile(r"[0-9a-fA-F]{32}")

router = APIRouter(tags=["Uploads"])


def _body_doc(required: list[str], properties: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "required": required, "properties": properties}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


CREATE_DOC = _body_doc(
    ["bytes", "filename", "mime_type", "purpose"],
    {
        "bytes": {"type": "integer", "minimum": 1},
        "filename": {"type": "string", "minLength": 1},
        "mime_type": {"type": "string"},
        "purpose": {"type": "string", "enum": list(PURPOSES)},
        EXPIRY: {
            "type": "object",
            "required": ["anchor", "seconds"],
            "properties": {
                "anchor": {"type": "string", "enum": ["created_at"]},
                "seconds": {"type": "integer", "minimum": 3600, "maximum": 2592000},
            },
        },
    },
)
COMPLETE_DOC = _body_doc(
    [PART_IDS],
    {PART_IDS: {"type": "array", "items": {"type": "string"}}, MD5: {"type": "string"}},
)


@router.post(
    "/uploads", response_model=UploadObject, responses=error_docs(400, 413, 415, 507), openapi_extra=CREATE_DOC
)
async def create_upload(request: Request, api: ApiDep, tenant: TenantDep) -> Response:
    """Begin a file in parts. It waits for an hour to be completed."""
    body = await read_json_object(request, bytes_max=api.settings.json_body_bytes_max)
    wanted = _wanted(body, api.settings)
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
    part_ids, md5 = _part_ids(body.get(PART_IDS)), _md5(body.get(MD5))
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


@dataclass(frozen=True, slots=True)
class _Wanted:
    bytes: int
    filename: str
    mime_type: str
    purpose: str
    expires_after_seconds: int | None


def _wanted(body: dict[str, Any], settings: ServerSettings) -> _Wanted:
    size = body.get("bytes")
    if size is None:
        raise missing("bytes")
    if not isinstance(size, int) or isinstance(size, bool):
        raise invalid("bytes", "expected an integer.", code="invalid_type")
    if size < 1:
        raise invalid("bytes", f"expected at least 1, but got {size}.", code="integer_below_min_value")
    filename, mime_type = _text(body, "filename"), _text(body, "mime_type")
    purpose = check_purpose(_text(body, "purpose"))
    check_filename("filename", filename, settings)
    check_filename("mime_type", mime_type, settings)
    if purpose == BATCH:
        strict.check_name(filename, settings)
    if size > strict.bytes_max(purpose, settings, in_parts=True):
        raise strict.too_large(purpose, settings, in_parts=True)
    return _Wanted(size, filename, mime_type, purpose, _expires_after_seconds(body.get(EXPIRY), settings))


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if value is None or value == "":
        raise missing(name)
    if not isinstance(value, str):
        raise invalid(name, f"expected a string, but got {shown(value)}.", code="invalid_type")
    return value


def _expires_after_seconds(value: object, settings: ServerSettings) -> int | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise invalid(EXPIRY, "expected an object.", code="invalid_type")
    names = (f"{EXPIRY}.anchor", f"{EXPIRY}.seconds")
    return check_expires_after(value.get("anchor"), value.get("seconds"), names=names, settings=settings)


def _part_ids(value: object) -> list[str]:
    if value is None:
        raise missing(PART_IDS)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise invalid(PART_IDS, "expected an array of strings.", code="invalid_type")
    return value


def _md5(value: object) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or MD5_PATTERN.fullmatch(value) is None:
        raise invalid(MD5, "expected 32 hexadecimal digits.")
    return value
