"""Every object that the official `openai` package parses, checked by the package's own models.

The package builds its objects without looking unless a client is strict; these clients are, so a missing field or a
value outside an enumeration raises `APIResponseValidationError`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import Batch, Completion, CreateEmbeddingResponse, FileObject
from openai.types.chat import ChatCompletion
from openai.types.responses import Response

from tests.support.batches import TERMINAL, chat_line, create, mixed_lines, upload, wait_for
from tests.support.lossy import LossyProxy
from tests.support.process import ServerProcess

MESSAGES: list[Any] = [{"role": "user", "content": "hello"}]
SCHEMA = {"type": "object", "properties": {"label": {"enum": ["a", "b"]}}, "required": ["label"]}


@pytest.fixture(scope="module")
def strict(two_models: ServerProcess) -> Iterator[openai.OpenAI]:
    with two_models.client(max_retries=0, _strict_response_validation=True) as client:
        yield client


@pytest.fixture
async def strict_async(two_models: ServerProcess) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{two_models.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


def test_every_object_of_a_files_life_is_the_sdks(strict: openai.OpenAI) -> None:
    file = strict.files.create(
        file=("nightly.jsonl", chat_line("a", "a")),
        purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert file.expires_at == file.created_at + 3600
    assert strict.files.retrieve(file.id) == file
    assert strict.files.wait_for_processing(file.id) == file
    page = strict.files.list(limit=1)
    assert (page.data, page.has_more) == ([file], page.has_more)
    deleted = strict.files.delete(file.id)
    assert (deleted.id, deleted.object, deleted.deleted) == (file.id, "file", True)
    with pytest.raises(openai.NotFoundError):
        strict.files.retrieve(file.id)


def test_a_batch_is_the_sdks_in_every_status(strict: openai.OpenAI) -> None:
    seen: dict[str, Batch] = {}
    batch = create(strict, upload(strict, mixed_lines(60)))
    seen[batch.status] = batch
    wait_for(strict, batch.id, lambda batch: seen.setdefault(batch.status, batch).status in TERMINAL)
    broken = wait_for(strict, create(strict, upload(strict, [chat_line("a", "a"), b"{"])).id)
    stopped = create(strict, upload(strict, [chat_line(f"row-{n}", "text") for n in range(20_000)]))
    seen["cancelling"] = strict.batches.cancel(stopped.id)
    seen["cancelled"] = wait_for(strict, stopped.id)
    assert broken.errors is not None
    assert broken.errors.data is not None
    assert [error.line for error in broken.errors.data] == [2]
    seen[broken.status] = broken
    assert seen.keys() >= {"validating", "completed", "failed", "cancelling", "cancelled"}
    for status, batch in seen.items():
        assert batch.status == status
        assert Batch.model_validate(batch.to_dict()) == batch
        assert batch.usage is not None
        assert batch.request_counts is not None


def test_pages_are_followed_to_their_end_in_both_orders(strict: openai.OpenAI) -> None:
    created = [
        strict.files.create(file=(f"{n}.txt", b"text"), purpose="vision" if n % 2 else "user_data").id for n in range(6)
    ]
    ascending = [file.id for file in strict.files.list(limit=2, order="asc", purpose="user_data")]
    assert ascending == created[::2]
    descending = [file.id for file in strict.files.list(limit=1, order="desc", purpose="user_data")]
    assert descending == created[::2][::-1]
    pages = list(strict.files.list(limit=2, purpose="user_data").iter_pages())
    assert [len(page.data) for page in pages] == [2, 1]
    assert [page.has_more for page in pages] == [True, False]


async def test_the_async_client_parses_and_pages_alike(strict_async: openai.AsyncOpenAI) -> None:
    files = await asyncio.gather(
        *(strict_async.files.create(file=(f"{n}.jsonl", chat_line("a", "a")), purpose="batch") for n in range(5))
    )
    batches = [
        await strict_async.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        for file in files
    ]
    listed = []
    async for batch in strict_async.batches.list(limit=2):
        listed.append(batch.id)
        if len(listed) == 5:
            break
    assert listed == [batch.id for batch in batches][::-1]
    chat = await strict_async.chat.completions.create(model="sim", messages=MESSAGES, max_tokens=8)
    assert chat.choices[0].message.content
    models = [model.id async for model in strict_async.models.list()]
    assert models == ["sim", "sim-embed"]


def test_models_are_the_sdks(strict: openai.OpenAI) -> None:
    assert [model.id for model in strict.models.list()] == ["sim", "sim-embed"]
    assert strict.models.retrieve("sim").object == "model"


def test_online_answers_are_the_sdks(strict: openai.OpenAI) -> None:
    chat = strict.chat.completions.create(model="sim", messages=MESSAGES, max_tokens=8, n=2)
    assert len(chat.choices) == 2
    completion = strict.completions.create(model="sim", prompt="hello", max_tokens=8)
    assert completion.object == "text_completion"
    response = strict.responses.create(model="sim", input="hello", max_output_tokens=8)
    assert response.output_text
    # Unless told otherwise the package asks for base64, which its own strict models refuse before it is decoded.
    embedding = strict.embeddings.create(model="sim-embed", input=["one", "two"], encoding_format="float")
    assert [len(item.embedding) for item in embedding.data] == [384, 384]
    chunks = list(strict.chat.completions.create(model="sim", messages=MESSAGES, max_tokens=8, stream=True))
    streamed = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    whole = strict.chat.completions.create(model="sim", messages=MESSAGES, max_tokens=8)
    assert streamed == whole.choices[0].message.content


def test_a_structured_answer_parses(strict: openai.OpenAI) -> None:
    answer = strict.chat.completions.create(
        model="sim",
        messages=MESSAGES,
        response_format={"type": "json_schema", "json_schema": {"name": "label", "schema": SCHEMA}},
    )
    assert json.loads(answer.choices[0].message.content or "")["label"] in ("a", "b")


def test_the_body_of_every_result_is_the_sdks_object(strict: openai.OpenAI) -> None:
    def bodies(endpoint: str, model: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        lines = [
            json.dumps({"custom_id": f"row-{n}", "method": "POST", "url": endpoint, "body": {"model": model, **body}})
            for n in range(3)
        ]
        done = wait_for(strict, create(strict, upload(strict, [line.encode() for line in lines]), endpoint).id)
        assert done.output_file_id is not None, done
        return [json.loads(line)["response"]["body"] for line in strict.files.content(done.output_file_id).iter_lines()]

    for body in bodies("/v1/chat/completions", "sim", {"messages": MESSAGES, "max_tokens": 8}):
        assert ChatCompletion.model_validate(body).choices[0].finish_reason in ("stop", "length")
    for body in bodies("/v1/completions", "sim", {"prompt": "hello", "max_tokens": 8}):
        assert Completion.model_validate(body).usage is not None
    for body in bodies("/v1/responses", "sim", {"input": "hello", "max_output_tokens": 8}):
        assert Response.model_validate(body).output_text
    for body in bodies("/v1/embeddings", "sim-embed", {"input": "hello"}):
        assert len(CreateEmbeddingResponse.model_validate(body).data[0].embedding) == 384


def test_result_files_are_the_sdks_and_called_after_their_batch(strict: openai.OpenAI) -> None:
    done = wait_for(strict, create(strict, upload(strict, mixed_lines(60))).id)
    assert done.output_file_id is not None
    assert done.error_file_id is not None
    for file_id, kind in ((done.output_file_id, "output"), (done.error_file_id, "error")):
        file = strict.files.retrieve(file_id)
        assert (file.purpose, file.filename) == ("batch_output", f"{done.id}_{kind}.jsonl")
        assert file.expires_at == file.created_at + 30 * 86_400
        assert len(strict.files.content(file_id).read()) == file.bytes


def test_raw_answers_have_the_headers_of_openais(strict: openai.OpenAI) -> None:
    raw = strict.models.with_raw_response.list()
    assert raw.headers["x-request-id"].startswith("req_")
    assert float(raw.headers["openai-processing-ms"]) >= 0
    assert raw.headers["content-type"] == "application/json"
    assert raw.parse()._request_id == raw.headers["x-request-id"]
    with pytest.raises(openai.NotFoundError) as refused:
        strict.batches.with_raw_response.retrieve("batch_x")
    assert refused.value.request_id == refused.value.response.headers["x-request-id"]
    assert (refused.value.type, refused.value.code) == ("invalid_request_error", "batch_not_found")


def test_a_download_streams_to_disk(strict: openai.OpenAI, tmp_path: Path) -> None:
    content = b"\n".join(mixed_lines(300))
    file = strict.files.create(file=("large.jsonl", content), purpose="batch")
    assert isinstance(file, FileObject)
    with strict.files.with_streaming_response.content(file.id) as reply:
        digest = hashlib.sha256()
        for chunk in reply.iter_bytes(10_000):
            digest.update(chunk)
    assert digest.digest() == hashlib.sha256(content).digest()
    with strict.files.with_streaming_response.content(file.id) as reply:
        reply.stream_to_file(tmp_path / "large.jsonl")
    assert (tmp_path / "large.jsonl").read_bytes() == content
    strict.files.content(file.id).write_to_file(tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == content


def test_a_lost_answer_is_asked_for_again(two_models: ServerProcess) -> None:
    proxy = LossyProxy(two_models)
    try:
        with openai.OpenAI(base_url=proxy.url, api_key="none", max_retries=2) as client:
            proxy.lose(2)
            assert [model.id for model in client.models.list()] == ["sim", "sim-embed"]
            assert proxy.lost == 2
        with openai.OpenAI(base_url=proxy.url, api_key="none", max_retries=0) as client:
            proxy.lose(1)
            with pytest.raises(openai.APIConnectionError):
                client.models.list()
    finally:
        proxy.close()


def test_a_create_whose_answer_was_lost_is_not_done_twice(two_models: ServerProcess) -> None:
    proxy = LossyProxy(two_models)
    try:
        with openai.OpenAI(base_url=proxy.url, api_key="none", max_retries=2) as client:
            file_id = upload(client, [chat_line("a", "a")])
            before = len(list(client.batches.list()))
            proxy.lose(1)
            batch = create(client, file_id)
            assert proxy.lost == 1
            after = [found.id for found in client.batches.list()]
            assert (after[0], len(after)) == (batch.id, before + 1)
    finally:
        proxy.close()


def test_a_client_that_hears_nothing_gives_up_in_its_own_time_and_asks_again(two_models: ServerProcess) -> None:
    proxy = LossyProxy(two_models)
    try:
        with openai.OpenAI(base_url=proxy.url, api_key="none", max_retries=1, timeout=0.5) as client:
            proxy.lose(1, silently=True)
            assert client.models.retrieve("sim").id == "sim"
            assert proxy.lost == 1
            proxy.lose(2, silently=True)
            with pytest.raises(openai.APITimeoutError):
                client.models.retrieve("sim")
    finally:
        proxy.close()
