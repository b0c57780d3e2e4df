"""A file with nothing but broken lines: every answer stays small, no error is lost, and whoever asks may run it all the
same."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

import openai
import pytest

from tests.support.batches import chat_line, upload, wait_for
from tests.support.process import ServerProcess

LINES = 200_000
ANSWER_BYTES_MAX = 1_000_000
CONTROL = chr(0xE0001) * 64
"""A character that messages show escaped: as long as a name of 64 characters can make them."""


def _bad(number: int) -> bytes:
    match number % 4:
        case 0:
            return b"{"
        case 1:
            return b'{"custom_id": "c%d"}' % number
        case 2:
            return chat_line(f"c{number}", "a", model=f"{number % 100}{CONTROL}")
        case _:
            return chat_line(f"c{number}", "a", stream=True)


@pytest.fixture(scope="module")
def bad_file(client: openai.OpenAI) -> str:
    return upload(client, [_bad(number) for number in range(LINES)])


def _get(server: ServerProcess, path: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{server.url}/v1{path}", timeout=60) as reply:
        answer = reply.read()
    assert len(answer) < ANSWER_BYTES_MAX, path
    found: dict[str, Any] = json.loads(answer)
    return found


def _create(client: openai.OpenAI, file_id: str, **extra: str) -> str:
    return client.batches.create(
        input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h", extra_body=extra
    ).id


def test_200000_bad_lines_keep_every_answer_small_and_every_error(
    server: ServerProcess, client: openai.OpenAI, bad_file: str
) -> None:
    batch_id = _create(client, bad_file)
    assert wait_for(client, batch_id).status == "failed"
    batch = _get(server, f"/batches/{batch_id}")
    assert batch["errors"]["total"] == LINES
    assert 100 <= len(batch["errors"]["data"]) <= 1000
    assert batch["output_file_id"] is None
    listed = _get(server, "/batches?limit=100")["data"]
    assert [len(found["errors"]["data"]) <= 10 for found in listed if found["id"] == batch_id] == [True]

    page = _get(server, f"/batches/{batch_id}/errors?limit=100")
    following = _get(server, f"/batches/{batch_id}/errors?limit=100&after={page['last_id']}")
    assert [error["line"] for error in page["data"] + following["data"]] == list(range(1, 201))
    assert (page["total"], page["has_more"]) == (LINES, True)

    errors = client.files.content(batch["error_file_id"]).read().splitlines()
    assert [json.loads(line)["error"]["line"] for line in errors] == list(range(1, LINES + 1))


def test_200000_bad_lines_are_error_lines_when_asked(
    server: ServerProcess, client: openai.OpenAI, bad_file: str
) -> None:
    batch_id = _create(client, bad_file, on_invalid_line="report")
    ended = wait_for(client, batch_id)
    assert (ended.status, ended.output_file_id) == ("completed", None)
    assert _get(server, f"/batches/{batch_id}")["request_counts"] == {"total": LINES, "completed": 0, "failed": LINES}
    assert ended.error_file_id is not None
    lines = [json.loads(line) for line in client.files.content(ended.error_file_id).read().splitlines()]
    assert [line["custom_id"] for line in lines[1:8:4]] == ["c1", "c5"]
    assert len({line["id"] for line in lines}) == LINES
