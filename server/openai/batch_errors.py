"""`/batches/{id}/errors`: every error of a batch, a page at a time, beyond OpenAI's API."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from fastapi import APIRouter, Response

from server.auth import TenantDep
from server.context import Api, ApiDep
from server.errors import invalid
from server.openai.batches import find_batch
from server.openai.paging import After, Limit, page_limit
from server.openai.shapes import BatchErrorPage, NumberedError, error_docs, reply
from store.records import BatchRecord, FileRecord, LineError

PAGE_BYTES_MAX = 512 * 1024
"""A page ends before its limit when its lines are long; `has_more` then says so."""

MESSAGE_CHARS_MAX = 2_000

router = APIRouter(tags=["Batches"])


class _Failure(msgspec.Struct):
    code: str | None = None
    message: str | None = None
    param: str | None = None
    line: int | None = None


class _Body(msgspec.Struct):
    error: _Failure | None = None


class _Answer(msgspec.Struct):
    status_code: int
    body: _Body


class _ErrorLine(msgspec.Struct):
    custom_id: str
    response: _Answer | None = None
    error: _Failure | None = None


_decoder = msgspec.json.Decoder(_ErrorLine)


@router.get("/batches/{batch_id}/errors", response_model=BatchErrorPage, responses=error_docs(400, 404))
async def list_batch_errors(
    batch_id: str, api: ApiDep, tenant: TenantDep, after: After = None, limit: Limit = None
) -> Response:
    """All errors of a batch in line order: what validation found, and once the batch has ended the errors of its lines.
    `total` counts them; a batch that still runs shows none of its lines."""
    batch = await find_batch(api, tenant, batch_id)
    settings = api.settings
    count = page_limit(limit, default=settings.errors_list_limit_default, maximum=settings.errors_list_limit_max)
    offset = _offset(after)
    file = None
    if batch.error_file_id is not None:
        file = await api.store.files.get(tenant, batch.error_file_id)
    total = max(batch.errors_total, len(batch.errors)) or batch.counts.failed
    if file is None:
        data, has_more = _from_record(batch, offset, count)
        total = len(batch.errors) if batch.error_file_id is None else total
    else:
        data, has_more = await asyncio.to_thread(_from_file, api, file, offset, count)
    return reply(
        BatchErrorPage(
            data=data,
            first_id=data[0].id if data else None,
            last_id=data[-1].id if data else None,
            has_more=has_more,
            total=total,
        )
    )


def _offset(after: str | None) -> int:
    if after is None:
        return 0
    if not (after.isascii() and after.isdigit() and len(after) <= 15):
        raise invalid("after", "give the id of the last error of the page before.")
    return int(after)


def _from_record(batch: BatchRecord, offset: int, count: int) -> tuple[list[NumberedError], bool]:
    """Without a file (it has expired, or there never was one) the first errors still stand on the batch."""
    page = batch.errors[offset : offset + count]
    data = [_numbered(str(offset + number), None, error) for number, error in enumerate(page, 1)]
    return data, offset + count < len(batch.errors)


def _from_file(api: Api, file: FileRecord, offset: int, count: int) -> tuple[list[NumberedError], bool]:
    """An error's id is where the next one starts in the error file: any page is found without reading those before."""
    data: list[NumberedError] = []
    size = 0
    with api.store.blobs.path(file.blob).open("rb") as lines:
        if offset:
            lines.seek(offset - 1)
            if lines.read(1) != b"\n":
                raise invalid("after", "no error of this batch has that id.")
        while len(data) < count and size < PAGE_BYTES_MAX:
            raw = lines.readline()
            if not raw:
                break
            offset += len(raw)
            line = _decoder.decode(raw)
            error = _numbered(str(offset), line.custom_id, _failure(line))
            size += len(error.message)
            data.append(error)
        return data, offset < file.bytes


def _failure(line: _ErrorLine) -> LineError:
    found: Any = line.error or (line.response.body.error if line.response else None) or _Failure()
    status = f"http_{line.response.status_code}" if line.response else "unknown"
    return LineError(found.code or status, found.message or "", found.param, found.line)


def _numbered(name: str, custom_id: str | None, error: LineError) -> NumberedError:
    message = error.message if len(error.message) <= MESSAGE_CHARS_MAX else error.message[:MESSAGE_CHARS_MAX] + "..."
    return NumberedError(
        id=name, custom_id=custom_id, code=error.code, message=message, param=error.param, line=error.line
    )
