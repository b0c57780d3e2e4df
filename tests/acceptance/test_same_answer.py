"""Same request, same answer: real lines through a batch and through the synchronous endpoint of the same engine.

Compared is all of a body but its id and time. The real engine runs in float32: in bf16 stock vLLM differs from itself
where two tokens are almost as likely, depending on what else is in the step.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.batches import chat_and_embeddings, create, upload, wait_for
from tests.support.process import ServerProcess

EXAMPLES = Path(__file__).parents[2] / "examples" / "banking77.jsonl"
LINES = 200
REAL_LINES = int(os.environ.get("SAME_ANSWER_LINES", "24"))
"""On the real engine, whose start is most of the test's time; 200 take two minutes on two cores."""

ONLINE_AT_ONCE = 4
FREE_EVERY = 3
"""Every third line answers in its own words: with a schema few tokens are free to differ."""

FLOAT32 = """
[[models]]
id = "smollm2-135m-instruct"
kv_cache_mib = 512

[models.engine_args]
dtype = "float32"
max_model_len = 1024

[store]
disk_reserve_mib = 64
"""
START_SECONDS_MAX = 240.0

Bodies = dict[str, dict[str, Any]]


def real_requests(count: int) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in EXAMPLES.read_bytes().splitlines()[:count]]
    assert len(lines) == count
    for number, line in enumerate(lines):
        assert line["body"]["temperature"] == 0
        if number % FREE_EVERY == 0:
            del line["body"]["response_format"]
    return lines


def of_batch(server: ServerProcess, lines: Sequence[dict[str, Any]]) -> Bodies:
    with server.client() as client:
        file_id = upload(client, [json.dumps(line).encode() for line in lines])
        batch = wait_for(client, create(client, file_id, lines[0]["url"]).id, seconds=500)
        assert batch.status == "completed"
        assert batch.output_file_id, batch
        results = [json.loads(line) for line in client.files.content(batch.output_file_id).read().splitlines()]
    assert [result["custom_id"] for result in results] == [line["custom_id"] for line in lines]
    return {result["custom_id"]: comparable(result["response"]["body"]) for result in results}


def of_endpoint(server: ServerProcess, lines: Sequence[dict[str, Any]]) -> Bodies:
    with httpx2.Client(base_url=server.url, timeout=300) as http, ThreadPoolExecutor(ONLINE_AT_ONCE) as pool:
        answers = list(pool.map(lambda line: http.post(line["url"], json=line["body"]), lines))
    assert {answer.status_code for answer in answers} == {200}
    return {line["custom_id"]: comparable(answer.json()) for line, answer in zip(lines, answers, strict=True)}


def comparable(body: dict[str, Any]) -> dict[str, Any]:
    """Without what is another with each request: id, time, and what the prefix cache held just then."""
    for name in ("id", "created", "created_at"):
        body.pop(name, None)
    for item in body.get("output", ()):
        item.pop("id")
        item.pop("call_id", None)
    for details in ("prompt_tokens_details", "input_tokens_details"):
        body["usage"].pop(details, None)
    return body


def as_responses(line: dict[str, Any]) -> dict[str, Any]:
    asked = line["body"]
    body = {"model": asked["model"], "input": asked["messages"], "temperature": 0, "max_output_tokens": 32}
    if "response_format" in asked:
        body["text"] = {"format": {"type": "json_schema", **asked["response_format"]["json_schema"]}}
    return {**line, "url": "/v1/responses", "body": body}


@pytest.fixture(scope="module")
def simulated_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    config = chat_and_embeddings(chat="smollm2-135m-instruct")
    process = ServerProcess(tmp_path_factory.mktemp("same"), config=config).start()
    yield process
    process.stop()


def test_two_hundred_real_chats_are_answered_alike_by_batch_and_endpoint(simulated_server: ServerProcess) -> None:
    lines = real_requests(LINES)
    assert of_batch(simulated_server, lines) == of_endpoint(simulated_server, lines)


def test_two_hundred_real_responses_are_answered_alike_by_batch_and_endpoint(simulated_server: ServerProcess) -> None:
    lines = [as_responses(line) for line in real_requests(LINES)]
    assert of_batch(simulated_server, lines) == of_endpoint(simulated_server, lines)


@pytest.fixture(scope="module")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    pytest.importorskip("vllm")
    process = ServerProcess(tmp_path_factory.mktemp("float32"), config=FLOAT32)
    process.start(ready=False)
    process.wait_ready(START_SECONDS_MAX)
    yield process
    process.stop()


@pytest.mark.real_engine
@pytest.mark.timeout(900)
@pytest.mark.parametrize("endpoint", ["chat", "responses"])
def test_real_vllm_answers_alike_by_batch_and_endpoint(real_server: ServerProcess, endpoint: str) -> None:
    lines = real_requests(REAL_LINES)
    if endpoint == "responses":
        lines = [as_responses(line) for line in lines]
    assert of_batch(real_server, lines) == of_endpoint(real_server, lines)
