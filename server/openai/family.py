"""A batch and its retries: which ended, and their result files as paths."""

from __future__ import annotations

from pathlib import Path

from server.context import Api
from server.errors import NO_RETRY, ApiError
from store.ended import EndedResults
from store.records import BatchRecord


def check_ended(batch: BatchRecord, verb: str) -> None:
    if not batch.status.terminal:
        raise ApiError(
            409,
            f"Cannot {verb} batch {batch.id}: it has not ended (status '{batch.status.value}').",
            code="batch_not_ended",
            headers=NO_RETRY,
        )


async def open_results(api: Api, batch: BatchRecord) -> EndedResults:
    """Opened here on the loop's behalf; 400 names the file that is gone."""
    output = await _path(api, batch, batch.output_file_id, "output")
    error = await _path(api, batch, batch.error_file_id, "error")
    total = max(batch.counts.total, 0)
    return EndedResults(batch.id, total, output, error, pace=api.store.intake_pace)


async def _path(api: Api, batch: BatchRecord, file_id: str | None, kind: str) -> Path | None:
    if file_id is None:
        return None
    file = await api.store.files.get(batch.tenant, file_id)
    path = None if file is None else api.store.blobs.path(file.blob)
    if path is None or not path.exists():
        raise ApiError(
            400,
            f"The {kind} file {file_id} of batch {batch.id} was deleted or has expired: which of its lines had which "
            "result is not known any more.",
            code="result_file_deleted",
        )
    return path
