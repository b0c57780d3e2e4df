"""Uploads in parts with the official `openai` package, every object checked by its own models."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from openai.types import Upload

from tests.support.batches import create, mixed_lines, wait_for
from tests.support.process import ServerProcess

CONTENT = b"\n".join(mixed_lines(200)) + b"\n"
PIECES = [CONTENT[start : start + 20_000] for start in range(0, len(CONTENT), 20_000)]


@pytest.fixture(scope="module")
def strict(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with server.client(max_retries=0, _strict_response_validation=True) as client:
        yield client


def begin(client: openai.OpenAI, size: int = len(CONTENT)) -> Upload:
    return client.uploads.create(bytes=size, filename="parts.jsonl", mime_type="application/jsonl", purpose="batch")


def test_an_upload_in_parts_becomes_a_batch_input(strict: openai.OpenAI) -> None:
    begun = begin(strict)
    assert (begun.status, begun.file, begun.bytes, begun.purpose) == ("pending", None, len(CONTENT), "batch")
    assert begun.expires_at == begun.created_at + 3600
    backwards = [strict.uploads.parts.create(begun.id, data=piece) for piece in reversed(PIECES)]
    assert {part.upload_id for part in backwards} == {begun.id}
    done = strict.uploads.complete(
        begun.id, part_ids=[part.id for part in reversed(backwards)], md5=hashlib.md5(CONTENT).hexdigest()
    )
    assert (done.status, done.id) == ("completed", begun.id)
    assert done.file is not None
    assert (done.file.status, done.file.filename, done.file.bytes) == ("processed", "parts.jsonl", len(CONTENT))
    assert strict.files.content(done.file.id).read() == CONTENT
    batch = wait_for(strict, create(strict, done.file.id).id)
    assert (batch.status, batch.errors) == ("completed", None)


def test_the_sdk_cuts_a_file_into_parts_and_completes_it(strict: openai.OpenAI, tmp_path: Path) -> None:
    source = tmp_path / "large.jsonl"
    source.write_bytes(CONTENT)
    done = strict.uploads.upload_file_chunked(
        file=source,
        mime_type="application/jsonl",
        purpose="batch",
        part_size=30_000,
        md5=hashlib.md5(CONTENT).hexdigest(),
    )
    assert done.status == "completed"
    assert done.file is not None
    assert strict.files.content(done.file.id).read() == CONTENT


async def test_parts_may_come_side_by_side(server: ServerProcess) -> None:
    async with openai.AsyncOpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
    ) as client:
        begun = await client.uploads.create(
            bytes=len(CONTENT), filename="parts.jsonl", mime_type="application/jsonl", purpose="batch"
        )
        parts = await asyncio.gather(*(client.uploads.parts.create(begun.id, data=piece) for piece in PIECES))
        done = await client.uploads.complete(begun.id, part_ids=[part.id for part in parts])
        assert done.file is not None
        assert (await client.files.content(done.file.id)).read() == CONTENT


def test_a_cancelled_upload_takes_no_more_parts(strict: openai.OpenAI) -> None:
    begun = begin(strict)
    strict.uploads.parts.create(begun.id, data=PIECES[0])
    assert strict.uploads.cancel(begun.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError) as refused:
        strict.uploads.parts.create(begun.id, data=PIECES[1])
    assert refused.value.code == "upload_not_pending"


def test_an_upload_whose_bytes_do_not_add_up_is_refused_and_can_still_be_completed(strict: openai.OpenAI) -> None:
    begun = begin(strict)
    parts = [strict.uploads.parts.create(begun.id, data=piece).id for piece in PIECES]
    with pytest.raises(openai.BadRequestError):
        strict.uploads.complete(begun.id, part_ids=parts[:-1])
    with pytest.raises(openai.BadRequestError):
        strict.uploads.complete(begun.id, part_ids=parts, md5=hashlib.md5(b"other").hexdigest())
    assert strict.uploads.complete(begun.id, part_ids=parts).status == "completed"
