"""Nightbatch before a vLLM server that somebody already runs: vLLM's own API server, real weights, on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.embedded import CHAT, prepare
from tests.support.batches import chat_line, create, outcome, upload, wait_for
from tests.support.process import ServerProcess, free_port

pytestmark = [pytest.mark.real_engine, pytest.mark.timeout(600)]

START_SECONDS_MAX = 240.0
SCHEMA = {
    "type": "object",
    "properties": {"mood": {"enum": ["good", "bad"]}},
    "required": ["mood"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def vllm_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("vllm")
    port = free_port()
    log = tmp_path_factory.mktemp("vllm") / "log"
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(prepare(CHAT))]
    command += ["--served-model-name", "smol", "--port", str(port), "--host", "127.0.0.1", "--enforce-eager"]
    command += ["--max-num-seqs", "32", "--kv-cache-memory-bytes", str(512 * 1024 * 1024)]
    environment = {**os.environ, "VLLM_CPU_OMP_THREADS_BIND": "0-1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("wb") as stream:
        server = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment, start_new_session=True)
    try:
        _wait_for_health(server, f"http://127.0.0.1:{port}/health", log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(60)


def _wait_for_health(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text(errors="replace")[-3000:]
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise AssertionError(log.read_text(errors="replace")[-3000:])


def test_a_batch_runs_on_vllms_own_server(vllm_url: str, tmp_path: Path) -> None:
    answer = {"type": "json_schema", "json_schema": {"name": "mood", "schema": SCHEMA, "strict": True}}
    lines = [
        chat_line(f"row-{number}", f"I am number {number}.", model="smol", response_format=answer, temperature=0)
        for number in range(60)
    ]
    lines.append(chat_line("too long", "word " * 20_000, model="smol"))
    front = ServerProcess(tmp_path, arguments=["--upstream", vllm_url]).start()
    try:
        client = front.client()
        assert [model.id for model in client.models.list()] == ["smol"]
        result = outcome(client, wait_for(client, create(client, upload(client, lines)).id))
    finally:
        front.stop()
    assert result.counts == (61, 60, 1)
    assert [line["custom_id"] for line in result.output] == [f"row-{number}" for number in range(60)]
    for line in result.output:
        body = line["response"]["body"]
        assert json.loads(body["choices"][0]["message"]["content"])["mood"] in {"good", "bad"}
        assert body["model"] == "smol"
        assert "prompt_logprobs" not in body
        assert body["usage"]["prompt_tokens_details"]["cached_tokens"] >= 0
    error = result.errors[0]["response"]["body"]["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "context_length_exceeded")
