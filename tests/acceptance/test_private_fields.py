"""Fields with which one client could hurt another: what reaches an engine of them, online and in a batch.

The engine is an upstream that writes down what it gets, so nothing that Nightbatch does to a request stays unseen.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import pytest

from tests.support.batches import create, upload, wait_for
from tests.support.process import ServerProcess

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
ENDPOINTS = (CHAT, COMPLETIONS, RESPONSES)
ASKED: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "hello"}]},
    COMPLETIONS: {"prompt": "hello"},
    RESPONSES: {"input": [{"type": "message", "role": "user", "content": "hello"}]},
}
MESSAGE = {"role": "assistant", "content": "hi"}
USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
PART = {"type": "output_text", "text": "hi", "annotations": []}
ITEM = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [PART]}
ANSWERS: dict[str, dict[str, Any]] = {
    CHAT: {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": MESSAGE, "finish_reason": "stop"}],
        "usage": USAGE,
    },
    COMPLETIONS: {
        "id": "cmpl-1",
        "object": "text_completion",
        "choices": [{"index": 0, "text": "hi", "finish_reason": "stop"}],
        "usage": USAGE,
    },
    RESPONSES: {"id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "output": [ITEM]},
}

STRIPPED: dict[str, Any] = {
    "priority": -1_000,
    "request_id": "somebody-elses",
    "session_id": "somebody-elses",
    "vllm_xargs": {"plugin": "on"},
    "kv_transfer_params": {"remote_block_ids": [1]},
    "ec_transfer_params": {"remote": 1},
    "cache_salt": "mine",
    "prompt_logprobs": 20,
    "return_token_ids": True,
    "return_tokens_as_token_ids": True,
    "return_prompt_text": True,
    "enable_response_messages": True,
    "stream_options": {"continuous_usage_stats": True},
}
REFUSED: dict[str, Any] = {
    "chat_template": "{% for i in range(10**9) %}{% endfor %}",
    "chat_template_kwargs": {"chat_template": "{{ 1 }}"},
}


class Recorder(BaseHTTPRequestHandler):
    """Any OpenAI-compatible server, with an ear for what it is asked."""

    seen: list[tuple[dict[str, str], dict[str, Any]]]

    def do_GET(self) -> None:
        models = {"object": "list", "data": [{"id": "m", "kind": "generate", "endpoints": ENDPOINTS}]}
        self._say(models if self.path == "/v1/models" else {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.seen.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self._say({**ANSWERS[self.path], "created": 1, "model": "m"})

    def _say(self, answer: dict[str, Any]) -> None:
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 (the base class's word)
        pass


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    Recorder.seen = []
    upstream = ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
    threading.Thread(target=upstream.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{upstream.server_port}/v1"
    process = ServerProcess(tmp_path_factory.mktemp("front"), arguments=["--upstream", url]).start()
    yield process
    process.stop()
    upstream.shutdown()
    upstream.server_close()


@pytest.fixture
def seen() -> list[tuple[dict[str, str], dict[str, Any]]]:
    Recorder.seen.clear()
    return Recorder.seen


def online(server: ServerProcess, endpoint: str, fields: dict[str, Any], **headers: str) -> httpx2.Response:
    body = {"model": "m", **ASKED[endpoint], **fields}
    return httpx2.post(f"{server.url}{endpoint}", json=body, headers=headers, timeout=30)


def in_batch(server: ServerProcess, endpoint: str, fields: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of its output and error files."""
    body = {"model": "m", **ASKED[endpoint], **fields}
    line = {"custom_id": "a", "method": "POST", "url": endpoint, "body": body}
    with server.client() as client:
        batch = wait_for(client, create(client, upload(client, [json.dumps(line).encode()]), endpoint).id)
        assert batch.status == "completed", batch
        files = [name for name in (batch.output_file_id, batch.error_file_id) if name]
        return [json.loads(line) for name in files for line in client.files.content(name).read().splitlines()]


def names_in(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value) | {name for inner in value.values() for name in names_in(inner)}
    if isinstance(value, list):
        return {name for inner in value for name in names_in(inner)}
    return set()


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("field", STRIPPED)
def test_a_field_that_could_hurt_others_never_reaches_an_engine(
    server: ServerProcess, seen: list[tuple[dict[str, str], dict[str, Any]]], field: str, endpoint: str
) -> None:
    fields = {field: STRIPPED[field]}
    assert online(server, endpoint, fields).status_code == 200
    (result,) = in_batch(server, endpoint, fields)
    assert result["response"]["status_code"] == 200
    assert len(seen) == 2
    for _, body in seen:
        assert field not in names_in(body)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("field", REFUSED)
def test_a_template_of_a_client_is_refused(
    server: ServerProcess, seen: list[tuple[dict[str, str], dict[str, Any]]], field: str, endpoint: str
) -> None:
    fields = {field: REFUSED[field]}
    answer = online(server, endpoint, fields)
    (result,) = in_batch(server, endpoint, fields)
    for status, body in (
        (answer.status_code, answer.json()),
        (result["response"]["status_code"], result["response"]["body"]),
    ):
        assert status == 400
        assert body["error"]["param"].endswith("chat_template")
    assert not seen


def test_echo_is_for_completions_only(server: ServerProcess, seen: list[tuple[dict[str, str], dict[str, Any]]]) -> None:
    for endpoint in ENDPOINTS:
        assert online(server, endpoint, {"echo": True}).status_code == 200
    assert ["echo" in body for _, body in seen] == [False, True, False]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_headers_of_clients_stay_outside(
    server: ServerProcess, seen: list[tuple[dict[str, str], dict[str, Any]]], endpoint: str
) -> None:
    assert online(server, endpoint, {}, **{"X-Vllm-Priority": "-9", "X-Request-Id": "mine"}).status_code == 200
    ((headers, body),) = seen
    assert "x-vllm-priority" not in headers
    assert headers.get("x-request-id") != "mine"
    assert "priority" not in body


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_service_tier_never_reaches_an_engine(
    server: ServerProcess, seen: list[tuple[dict[str, str], dict[str, Any]]], endpoint: str
) -> None:
    for tier in ("flex", "priority"):
        assert online(server, endpoint, {"service_tier": tier}).status_code == 200
        (result,) = in_batch(server, endpoint, {"service_tier": tier})
        assert result["response"]["status_code"] == 200
    assert len(seen) == 4
    assert not any("service_tier" in body for _, body in seen)


def test_a_response_is_asked_not_to_be_stored(
    server: ServerProcess, seen: list[tuple[dict[str, str], dict[str, Any]]]
) -> None:
    for store in (True, None):
        assert online(server, RESPONSES, {"store": store, "service_tier": "ultrafast"}).status_code == 200
    assert [body["store"] for _, body in seen] == [False, False]
    assert not any("service_tier" in body for _, body in seen)


@pytest.mark.parametrize(
    ("field", "value"),
    [("stream", True), ("background", True), ("previous_response_id", "resp_0"), ("conversation", "conv_0")],
)
def test_a_response_that_needs_more_than_one_answer_is_400(
    server: ServerProcess, seen: list[tuple[dict[str, str], dict[str, Any]]], field: str, value: object
) -> None:
    answer = online(server, RESPONSES, {field: value})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)
    assert not seen
