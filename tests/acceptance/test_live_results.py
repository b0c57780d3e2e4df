"""Results while the batch runs, from a real server that is killed in between."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx2
import openai

from tests.support.batches import chat_line, create, simulated, upload, wait_for
from tests.support.process import ServerProcess

LINES = 400


def page(server: ServerProcess, batch_id: str, **query: Any) -> httpx2.Response:
    return httpx2.get(f"{server.url}/v1/batches/{batch_id}/results", params=query, timeout=30)


def test_a_reader_sees_each_line_once_over_a_kill_and_the_files_hold_the_same(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path, config=simulated(time_scale=1.0)).start()
    lines = [b"{broken" if no % 100 == 50 else chat_line(f"row-{no}", f"question {no}") for no in range(LINES)]
    try:
        with server.client() as client:
            batch = client.batches.create(
                input_file_id=upload(client, lines),
                endpoint="/v1/chat/completions",
                completion_window="24h",
                extra_body={"on_invalid_line": "report"},
            )
            seen: list[bytes] = []
            cursor: dict[str, str] = {}
            killed = False
            deadline = time.monotonic() + 120
            while True:
                answer = page(server, batch.id, limit=37, **cursor)
                assert answer.status_code == 200, answer.text
                page_lines = answer.content.splitlines()
                if answer.headers["x-nightbatch-batch-status"] == "completed" and not page_lines:
                    break
                seen += page_lines
                cursor = {"after": answer.headers["x-nightbatch-next-cursor"]}
                if len(seen) > LINES / 4 and not killed:
                    server.kill()
                    server.start()
                    killed = True
                assert time.monotonic() < deadline
            ended = wait_for(client, batch.id)
            assert killed
            assert ended.output_file_id is not None
            assert ended.error_file_id is not None
            whole = [
                line
                for file_id in (ended.output_file_id, ended.error_file_id)
                for line in client.files.content(file_id).content.splitlines()
            ]
            client.files.delete(ended.error_file_id)
            refused = page(server, batch.id)
            assert (refused.status_code, refused.json()["error"]["code"]) == (409, "batch_ended")
    finally:
        server.stop()
    assert len(whole) == LINES
    assert sorted(seen) == sorted(whole)


def test_a_reader_in_the_middle_gets_the_rest_of_a_cancelled_batch_once(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path, config=simulated(time_scale=2.0)).start()
    seen: list[bytes] = []
    cursor: dict[str, str] = {}
    deadline = time.monotonic() + 120
    try:
        with server.client() as client:
            batch = create(client, upload(client, [chat_line(f"row-{no}", f"question {no}") for no in range(LINES)]))
            cancelled = False
            while True:
                answer = page(server, batch.id, limit=20, **cursor)
                lines = answer.content.splitlines()
                if answer.headers["x-nightbatch-batch-status"] == "cancelled" and not lines:
                    break
                seen += lines
                cursor = {"after": answer.headers["x-nightbatch-next-cursor"]}
                if seen and not cancelled:
                    client.batches.cancel(batch.id)
                    cancelled = True
                assert time.monotonic() < deadline
            ended = wait_for(client, batch.id)
            files = [file_id for file_id in (ended.output_file_id, ended.error_file_id) if file_id]
            whole = [line for one in files for line in client.files.content(one).content.splitlines()]
    finally:
        server.stop()
    assert len(whole) == LINES
    assert sorted(seen) == sorted(whole)


def test_a_page_of_a_batch_that_waits_is_empty_and_a_wrong_cursor_is_named(
    server: ServerProcess, client: openai.OpenAI
) -> None:
    batch = create(client, upload(client, [chat_line("a", "hello")]))
    refused = page(server, batch.id, after="nonsense")
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "after"
    wait_for(client, batch.id)
    ended = page(server, batch.id)
    assert [json.loads(line)["custom_id"] for line in ended.content.splitlines()] == ["a"]
    assert page(server, batch.id, after=ended.headers["x-nightbatch-next-cursor"]).content == b""
    assert page(server, "batch_none").status_code == 404


def test_the_command_prints_lines_as_they_come_and_then_downloads(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "server", config=simulated(time_scale=0.2)).start()
    try:
        with server.client() as client:
            batch = create(client, upload(client, [chat_line(f"row-{no}", f"question {no}") for no in range(100)]))
            done = subprocess.run(
                [
                    str(Path(sys.executable).with_name("nightbatch")),
                    "results",
                    batch.id,
                    "--follow",
                    "--url",
                    server.url,
                ],
                capture_output=True,
                text=True,
                cwd=tmp_path,
                timeout=120,
                check=False,
            )
            wait_for(client, batch.id)
    finally:
        server.stop()
    printed = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert done.returncode == 0, done.stderr
    assert sorted(json.loads(line)["custom_id"] for line in printed) == sorted(f"row-{no}" for no in range(100))
    assert (tmp_path / f"{batch.id}_output.jsonl").read_text().count("\n") == 100
