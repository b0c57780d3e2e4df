"""`/batches/{id}/retry`: the lines of an ended batch that meet a condition, as a new batch. Beyond OpenAI's API."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from server.auth import TenantDep
from server.bodies import read_json_object
from server.context import Api, ApiDep
from server.errors import ApiError
from server.openai.batch_params import REUSE, parse_batch_params
from server.openai.batches import find_batch, new_batch
from server.openai.deadline import FIELD as DEADLINE
from server.openai.family import check_ended, open_results
from server.openai.files import new_record
from server.openai.idempotency import check_same, read_repetition
from server.openai.incoming import BATCH
from server.openai.retry_params import DRY_RUN, SET, WHERE, WINDOW, RetryParams, Rewriter, parse_retry_params
from server.openai.shapes import BatchObject, error_docs, reply
from server.openai.uploading import Received
from store.answers import CONDITIONS, read_answer
from store.asked import AskedReader
from store.ended import EndedResults
from store.index import LineIndex
from store.lines import parse_line
from store.markers import reach
from store.records import BatchRecord, Damaged, FileRecord, Reuse
from store.uploads import Upload

LINES_AT_ONCE = 256
RETRIED_HEADER = "x-nightbatch-retried-lines"
NOTES_HEADER = "x-nightbatch-notes"

router = APIRouter(tags=["Batches"])

RETRY_DOC: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": [WHERE],
                "properties": {
                    WHERE: {"type": "array", "minItems": 1, "items": {"type": "string", "enum": list(CONDITIONS)}},
                    SET: {"type": ["object", "null"], "description": "Fields of each line's body and their values."},
                    WINDOW: {"type": ["string", "null"]},
                    DEADLINE: {"type": ["integer", "string", "null"]},
                    DRY_RUN: {"type": ["boolean", "null"]},
                },
            }
        }
    },
}


class RetryPlan(BaseModel):
    """What a retry would run."""

    object: Literal["batch.retry"] = "batch.retry"
    parent_batch_id: str
    lines: int
    notes: list[str]


@router.post(
    "/batches/{batch_id}/retry",
    response_model=BatchObject | RetryPlan,
    responses=error_docs(400, 404, 409, 413, 415, 507),
    openapi_extra={"requestBody": RETRY_DOC},
)
async def retry_batch(batch_id: str, request: Request, api: ApiDep, tenant: TenantDep) -> Response:
    """Run exactly the lines that meet any of `where` again, with `set` put into their bodies, as a child batch.

    The child's `parent_batch_id` names this batch. `dry_run` only counts.
    """
    body = await read_json_object(request, bytes_max=api.settings.json_body_bytes_max)
    params = parse_retry_params(body)
    repetition = read_repetition(request.headers, {**body, "parent_batch_id": batch_id}, api.settings)
    parent = await find_batch(api, tenant, batch_id)
    check_ended(parent, "retry")
    asked: dict[str, Any] = {
        "input_file_id": parent.input_file_id,
        "endpoint": parent.endpoint,
        "completion_window": params.completion_window or parent.completion_window,
        "metadata": None if parent.metadata is None else dict(parent.metadata),
        "on_invalid_line": parent.on_invalid_line.value,
        # Whoever runs lines again wants new answers: those that were kept are what the retry is to mend.
        REUSE: (Reuse.OFF if parent.reuse is Reuse.OFF else Reuse.BATCH).value,
        DEADLINE: body.get(DEADLINE),
    }
    batch_params = parse_batch_params(asked, api.settings, now=api.now())
    file = await _input(api, parent)
    try:
        index = await asyncio.to_thread(LineIndex.open, api.store.index_path(file.blob))
        picker = _Picker(index, parent, params)
        with await open_results(api, parent) as results:
            if params.dry_run:
                count = await api.store.intake_pace.run(picker.count, results)
                return reply(RetryPlan(parent_batch_id=parent.id, lines=count, notes=sorted(picker.notes)))
            child_file = await _write(api, parent, picker, results)
    except Damaged:
        await _input(api, parent)  # it may have been deleted while it was read, which is no damage
        raise
    new = new_batch(api, tenant, batch_params, child_file, repetition)
    new = replace(new, parent_batch_id=parent.id)
    since = new.created_at - api.settings.repeated_create_seconds if repetition.is_repeat else None
    try:
        await api.store.files.insert(child_file)
    except Exception:
        await api.store.blobs.delete(child_file.blob)
        raise
    record = await api.store.batches.create(new, repeats_since=since)
    if record.id != new.id:
        await api.store.files.delete(tenant, child_file.id)
        await api.store.blobs.delete(child_file.blob)
        check_same(record, repetition)
        return reply(BatchObject.of(record))
    reach("batch.created")
    api.wake()
    headers = {RETRIED_HEADER: str(picker.picked)}
    if picker.notes:
        headers[NOTES_HEADER] = "; ".join(sorted(picker.notes))
    return reply(BatchObject.of(record), headers=headers)


async def _input(api: Api, parent: BatchRecord) -> FileRecord:
    file = await api.store.files.get(parent.tenant, parent.input_file_id)
    if file is None:
        raise ApiError(
            400,
            f"The input file {parent.input_file_id} of batch {parent.id} was deleted or has expired: upload its lines "
            "again to run them again.",
            code="input_file_deleted",
        )
    return file


async def _write(api: Api, parent: BatchRecord, picker: _Picker, results: EndedResults) -> FileRecord:
    """The input file of the child, not yet known to anybody."""
    upload: Upload = await api.store.uploads.begin(indexed=True)
    try:
        pieces = picker.pieces(results)
        while (piece := await api.store.intake_pace.run(next, pieces, None)) is not None:
            await upload.write(piece)
        _check_any(parent, picker)
        stored = await upload.finish()
    except BaseException:
        await upload.abort()
        raise
    return new_record(Received(BATCH, f"{parent.id}_retry.jsonl", None, stored), api, parent.tenant)


def _check_any(parent: BatchRecord, picker: _Picker) -> None:
    if picker.picked:
        return
    wanted = ", ".join(sorted(picker.where))
    broken = f" ({picker.broken:,} lines are broken in the file itself and cannot run)" if picker.broken else ""
    raise ApiError(400, f"No line of batch {parent.id} meets {wanted}{broken}.", param=WHERE, code="no_lines_to_retry")


class _Picker:
    """Chooses lines by their results. Used from one thread at a time; everything here blocks."""

    def __init__(self, index: LineIndex, parent: BatchRecord, params: RetryParams) -> None:
        self.where = params.where
        self.picked = 0
        self.broken = 0
        self._index = index
        self._rewriter = Rewriter(params.changes, parent.endpoint)
        self._asked = AskedReader()

    @property
    def notes(self) -> set[str]:
        broken = f"{self.broken} broken lines were left out: they would be refused again"
        return self._rewriter.notes | ({broken} if self.broken else set())

    def count(self, results: EndedResults) -> int:
        for _ in self.pieces(results):
            pass
        return self.picked

    def pieces(self, results: EndedResults) -> Iterator[bytes]:
        """The lines of the new file, some at a time."""
        walk = iter(results)
        while group := list(islice(walk, LINES_AT_ONCE)):
            line_nos = [result.line_no for result in group]
            raws = self._index.read_lines(self._index.blob_path, line_nos)
            chosen = [raw for result, raw in zip(group, raws, strict=True) if self._is_wanted(result, raw)]
            self.picked += len(chosen)
            if chosen:
                yield b"".join(self._rewriter.rewrite(raw) + b"\n" for raw in chosen)

    def _is_wanted(self, result: Sequence[Any], raw: bytes) -> bool:
        line_no, succeeded, answer_line = result
        is_broken = bool(self._index.records[line_no]["error"])
        asked = None
        if succeeded and not is_broken:
            asked = self._asked.read(parse_line(raw).body)
        answer = read_answer(answer_line, succeeded=succeeded, asked=asked)
        wanted = not self.where.isdisjoint(answer.conditions)
        self.broken += wanted and is_broken
        return wanted and not is_broken
