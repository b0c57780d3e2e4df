"""`/batches/{id}/merged`: the results of a batch and all its retries, each custom_id once. Beyond OpenAI's API."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse

from server.auth import TenantDep
from server.context import ApiDep
from server.errors import ApiError
from server.openai.batches import find_batch
from server.openai.family import check_ended, open_results
from server.openai.shapes import error_docs
from store.merging import Merged, merge
from store.pacing import Pace

RETRIES_MAX = 100
PIECE_BYTES = 256 * 1024
RUNNING_HEADER = "x-nightbatch-running-retries"

router = APIRouter(tags=["Batches"])

Kind = Annotated[
    Literal["all", "output", "error"], Query(description="Only successes (`output`), only failures (`error`), or both.")
]

MERGED_DOC: dict[str, Any] = {
    "description": "JSON lines as in the output and error files, in the order of the batch's input.",
    "content": {"application/jsonl": {"schema": {"type": "string"}}},
    "headers": {
        RUNNING_HEADER: {
            "description": "How many retries have not ended: their results are not in it yet.",
            "schema": {"type": "integer"},
        }
    },
}


@router.get(
    "/batches/{batch_id}/merged",
    response_class=Response,
    responses={**error_docs(400, 404, 409), 200: MERGED_DOC},
)
async def merged_results(batch_id: str, api: ApiDep, tenant: TenantDep, kind: Kind = "all") -> Response:
    """Each custom_id of the batch once: its newest success among the batch and its retries, else its newest error."""
    root = await find_batch(api, tenant, batch_id)
    check_ended(root, "merge the results of")
    retries = await api.store.batches.descendants(tenant, root.id, limit=RETRIES_MAX + 1)
    if len(retries) > RETRIES_MAX:
        raise ApiError(
            400,
            f"Batch {root.id} has more than {RETRIES_MAX} retries: merge from a later one.",
            code="too_many_retries",
        )
    ended = [retry for retry in retries if retry.status.terminal]
    stack = ExitStack()
    try:
        opened = [stack.enter_context(await open_results(api, batch)) for batch in (root, *ended)]
    except BaseException:
        stack.close()
        raise
    pieces = _pieces(merge(opened[0], opened[1:]), kind)
    headers = {RUNNING_HEADER: str(len(retries) - len(ended))}
    return StreamingResponse(
        _streamed(pieces, stack, api.store.intake_pace), media_type="application/jsonl", headers=headers
    )


def _pieces(merged: Iterator[Merged], kind: str) -> Iterator[bytes]:
    gathered: list[bytes] = []
    size = 0
    for line in merged:
        if kind != "all" and line.succeeded != (kind == "output"):
            continue
        gathered.append(line.raw + b"\n")
        size += len(line.raw)
        if size >= PIECE_BYTES:
            yield b"".join(gathered)
            gathered, size = [], 0
    if gathered:
        yield b"".join(gathered)


async def _streamed(pieces: Iterator[bytes], stack: ExitStack, pace: Pace) -> AsyncIterator[bytes]:
    with stack:
        while (piece := await pace.run(next, pieces, None)) is not None:
            yield piece
