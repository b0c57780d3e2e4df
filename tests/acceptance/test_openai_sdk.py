"""The official `openai` package, unchanged but for its base URL, against a real server process."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from pathlib import Path

import openai
import pytest

from tests.support.batches import TERMINAL, chat_line, create, mixed_lines, outcome, upload, wait_for
from tests.support.process import ServerProcess


def test_a_batch_goes_from_file_to_results_in_input_order(client: openai.OpenAI, tmp_path: Path) -> None:
    source = tmp_path / "nightly.jsonl"
    source.write_bytes(b"\n".join(mixed_lines(100)) + b"\n")
    with source.open("rb") as stream:
        file = client.files.create(file=stream, purpose="batch")
    assert (file.filename, file.status, file.bytes) == ("nightly.jsonl", "processed", source.stat().st_size)
    assert client.files.wait_for_processing(file.id).status == "processed"

    batch = create(client, file.id)
    assert batch.status in {"validating", "in_progress"}
    assert batch.expires_at == batch.created_at + 86_400
    done = wait_for(client, batch.id)
    assert done.status == "completed"
    assert done.model == "sim"
    assert None not in (done.in_progress_at, done.finalizing_at, done.completed_at)
    assert (done.failed_at, done.expired_at, done.cancelled_at, done.errors) == (None, None, None, None)

    result = outcome(client, done)
    assert result.counts == (100, 98, 2)
    assert [line["custom_id"] for line in result.output] == [
        f"line {number}\t✓" for number in range(100) if number not in {49, 99}
    ]
    for line in result.errors:
        assert line["error"] is None
        assert line["response"]["status_code"] == 400
        assert line["response"]["body"]["error"]["code"] == "context_length_exceeded"


async def test_the_async_client_does_the_same(server: ServerProcess) -> None:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        content = b"\n".join(chat_line(f"row-{number}", f"text {number}") for number in range(20))
        file = await client.files.create(file=("input.jsonl", content), purpose="batch")
        batch = await client.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={"team": "search"},
        )
        async with asyncio.timeout(60):
            while batch.status not in TERMINAL:
                batch = await client.batches.retrieve(batch.id)
        assert (batch.status, batch.metadata) == ("completed", {"team": "search"})
        assert batch.output_file_id is not None
        lines = (await client.files.content(batch.output_file_id)).text.splitlines()
        assert [json.loads(line)["custom_id"] for line in lines] == [f"row-{number}" for number in range(20)]
        assert batch.id in [item.id async for item in client.batches.list(limit=1)]


def test_pages_of_a_list_hold_every_item_once_in_order(client: openai.OpenAI) -> None:
    file_id = upload(client, [chat_line("a", "a")])
    created = [create(client, file_id).id for _ in range(5)]
    listed = [batch.id for batch in client.batches.list(limit=2)]
    assert listed[:5] == created[::-1]
    assert len(set(listed)) == len(listed)


def test_a_cancelled_batch_keeps_what_is_done_and_says_so_for_the_rest(tmp_path: Path) -> None:
    config = (
        '[[models]]\nid = "sim"\nengine = "simulated"\nprofile = "cpu-135m"\n'
        "[store]\ndisk_reserve_mib = 64\n[scheduler]\nshard_lines_max = 32\n"
    )
    server = ServerProcess(tmp_path, config=config).start()
    try:
        client = server.client()
        lines = [chat_line(f"row-{number}", f"text {number}", max_tokens=200) for number in range(400)]
        batch = create(client, upload(client, lines))
        wait_for(client, batch.id, lambda batch: batch.request_counts.completed > 0)  # type: ignore[union-attr]
        assert client.batches.cancel(batch.id).status == "cancelling"
        done = wait_for(client, batch.id)
        assert done.status == "cancelled"
        result = outcome(client, done)
        assert len(result.output) + len(result.errors) == 400
        assert result.output
        assert {line["error"]["code"] for line in result.errors} == {"batch_cancelled"}
        with pytest.raises(openai.ConflictError) as refused:
            client.with_options(max_retries=0).batches.cancel(batch.id)
        assert refused.value.response.headers["x-should-retry"] == "false"
    finally:
        server.stop()


def test_results_can_be_read_in_ranges(server: ServerProcess, client: openai.OpenAI) -> None:
    batch = wait_for(client, create(client, upload(client, mixed_lines(30))).id)
    assert batch.output_file_id is not None
    whole = client.files.content(batch.output_file_id).read()
    request = urllib.request.Request(
        f"{server.url}/v1/files/{batch.output_file_id}/content", headers={"Range": "bytes=10-19"}
    )
    with urllib.request.urlopen(request, timeout=10) as reply:
        assert reply.status == 206
        assert reply.headers["content-range"] == f"bytes 10-19/{len(whole)}"
        assert reply.read() == whole[10:20]


def test_the_same_engine_answers_online_and_in_a_batch_alike(client: openai.OpenAI) -> None:
    online = client.chat.completions.create(
        model="sim", messages=[{"role": "user", "content": "hello there"}], max_tokens=24
    )
    batch = wait_for(client, create(client, upload(client, [chat_line("a", "hello there")])).id)
    body = outcome(client, batch).output[0]["response"]["body"]
    assert body["choices"][0]["message"]["content"] == online.choices[0].message.content
    assert body["usage"] == online.usage.to_dict() if online.usage else False


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    assert "sim" in [model.id for model in client.models.list()]
    assert client.models.retrieve("sim").object == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4o-mini")


def test_metrics_show_our_series_and_the_engines(server: ServerProcess) -> None:
    text = server.metrics()
    ours = {line.split(" ")[2] for line in text.splitlines() if line.startswith("# TYPE nightbatch_")}
    assert 12 <= len(ours) <= 40, sorted(ours)
    assert "simulated_requests_running" in text
