"""`/batches/{id}/results`: the results of a batch while it runs and afterwards, beyond OpenAI's API."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from server.auth import TenantDep
from server.context import Api, ApiDep
from server.errors import NO_RETRY, ApiError, invalid
from server.openai.batches import find_batch
from server.openai.paging import Limit, page_limit
from server.openai.shapes import error_docs
from store.live import LiveShard, Place, read_page
from store.records import BatchRecord, BatchStatus, Damaged
from store.sequence import read_ended_page

CURSOR_HEADER = "x-nightbatch-next-cursor"
STATUS_HEADER = "x-nightbatch-batch-status"

router = APIRouter(tags=["Batches"])

Cursor = Annotated[
    str | None,
    Query(max_length=16_384, description=f"Where the page before ended: its '{CURSOR_HEADER}'. Without it, the start."),
]

PAGE_DOC: dict[str, Any] = {
    "description": "JSON lines as in the result files, those that were ready first, first. Empty: none is new.",
    "content": {"application/jsonl": {"schema": {"type": "string"}}},
    "headers": {
        CURSOR_HEADER: {"description": "The cursor of the next page.", "schema": {"type": "string"}},
        STATUS_HEADER: {"description": "The batch's status.", "schema": {"type": "string"}},
    },
}


@router.get(
    "/batches/{batch_id}/results",
    response_class=Response,
    responses={**error_docs(400, 404, 409), 200: PAGE_DOC},
)
async def list_batch_results(
    batch_id: str, api: ApiDep, tenant: TenantDep, after: Cursor = None, limit: Limit = None
) -> Response:
    """Results that are durable already, each once for whoever follows the cursor, successes and errors alike.

    The cursor outlives restarts and the end of the batch. An empty page of a batch that has ended is the last one.
    409 with the code `batch_ended` when it has ended and its results cannot be read like this: it has none, a result
    file was deleted, or it failed on damaged files.
    """
    settings = api.settings
    count = page_limit(limit, default=settings.results_list_limit_default, maximum=settings.results_list_limit_max)
    place = _place(after)
    batch = await find_batch(api, tenant, batch_id)
    if batch.status.terminal:
        lines, place = await _ended_page(api, batch, place, count)
    elif batch.status is BatchStatus.VALIDATING:
        lines = []
    else:
        shards = await _shards(api, batch, place)
        try:
            lines, place = await asyncio.to_thread(
                read_page, shards, place, lines_max=count, bytes_max=settings.results_page_bytes_max
            )
        except Damaged:
            batch = await find_batch(api, tenant, batch_id)
            if not batch.status.terminal:
                raise
            # It ended while it was read: its segments are gone, which is no damage.
            lines, place = await _ended_page(api, batch, place, count)
    headers = {CURSOR_HEADER: str(place), STATUS_HEADER: batch.status.value}
    return Response(b"".join(line + b"\n" for line in lines), media_type="application/jsonl", headers=headers)


async def _ended_page(api: Api, batch: BatchRecord, place: Place, count: int) -> tuple[list[bytes], Place]:
    blobs = [
        None if file is None else file.blob
        for file in [
            None if file_id is None else await api.store.files.get(batch.tenant, file_id)
            for file_id in (batch.output_file_id, batch.error_file_id)
        ]
    ]
    first = blobs[0] if batch.output_file_id is not None else blobs[1]
    if first is None:
        raise _ended(batch)
    output, error = (None if blob is None else api.store.blobs.path(blob) for blob in blobs)
    bytes_max = api.settings.results_page_bytes_max
    try:
        return await asyncio.to_thread(
            read_ended_page,
            api.store.index_path(first),
            output,
            error,
            place,
            lines_max=count,
            bytes_max=bytes_max,
        )
    except FileNotFoundError:
        raise _ended(batch) from None


def _place(after: str | None) -> Place:
    try:
        return Place() if after is None else Place.parse(after)
    except ValueError as error:
        raise invalid("after", f"{error}; it is the '{CURSOR_HEADER}' of the page before.") from None


async def _shards(api: Api, batch: BatchRecord, place: Place) -> list[LiveShard]:
    """Those that may have something new. Lines that validation refused stand first, as shard 0; others move up by one.

    The rows are read before the files: a takeover in between only makes less of a segment count than lies there.
    """
    store = api.store
    segments: dict[int, list[tuple[Path, int | None]]] = {}
    for ref in await store.work.segments(batch.id):
        path = store.segment_path(ref.batch_id, ref.shard_no, ref.generation)
        segments.setdefault(ref.shard_no, []).append((path, ref.valid_bytes))
    first = [LiveShard(0, batch.invalid_lines, [(store.invalid_path(batch.id), None)])] if batch.invalid_lines else []
    start = len(first)
    return first + [
        LiveShard(shard.shard_no + start, shard.lines, segments.get(shard.shard_no, ()))
        for shard in await store.work.shards(batch.id)
        if shard.shard_no + start >= place.below
    ]


def _ended(batch: BatchRecord) -> ApiError:
    files = [f"output file {batch.output_file_id}"] if batch.output_file_id else []
    files += [f"error file {batch.error_file_id}"] if batch.error_file_id else []
    where = f"its results are in {' and '.join(files)}" if files else "it has no results"
    return ApiError(
        409, f"Batch {batch.id} has ended ({batch.status.value}): {where}.", code="batch_ended", headers=NO_RETRY
    )
