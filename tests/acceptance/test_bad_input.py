"""What a client gets wrong comes back in OpenAI's envelope, names the place, and loses nothing."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import openai
import pytest

from tests.support.batches import chat_line, create, upload, wait_for
from tests.support.process import ServerProcess


def _post(server: ServerProcess, path: str, body: bytes, content_type: str) -> tuple[int, dict[str, object]]:
    request = urllib.request.Request(f"{server.url}{path}", data=body, headers={"content-type": content_type})
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())["error"]


def test_an_upload_that_is_not_multipart_says_what_it_should_be(server: ServerProcess) -> None:
    status, error = _post(server, "/v1/files", b"{}", "application/json")
    assert (status, error["type"]) == (400, "invalid_request_error")
    assert "multipart/form-data" in str(error["message"])


def test_an_upload_without_a_file_part_names_it(server: ServerProcess) -> None:
    body = b'--x\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x--\r\n'
    status, error = _post(server, "/v1/files", body, "multipart/form-data; boundary=x")
    assert (status, error["param"]) == (400, "file")


def test_an_empty_file_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="empty"):
        client.files.create(file=("input.jsonl", b""), purpose="batch")


def _failed(
    client: openai.OpenAI, lines: list[bytes], endpoint: str = "/v1/chat/completions"
) -> list[dict[str, object]]:
    batch = wait_for(client, create(client, upload(client, lines), endpoint).id)
    assert batch.status == "failed"
    assert batch.errors is not None
    assert batch.errors.data
    assert batch.failed_at is not None
    return [error.to_dict() for error in batch.errors.data]


def test_broken_json_on_line_47000_is_found_there(client: openai.OpenAI) -> None:
    lines = [chat_line(f"row-{number}", "text") for number in range(50_000)]
    lines[46_999] = lines[46_999][:-3]
    errors = _failed(client, lines)
    assert [(error["code"], error["line"]) for error in errors] == [("invalid_json_line", 47_000)]


def test_a_line_of_50_mb_is_refused_by_number_and_limit(client: openai.OpenAI) -> None:
    errors = _failed(client, [chat_line("a", "a"), chat_line("b", "x" * 50_000_000)])
    assert [(error["code"], error["line"]) for error in errors] == [("line_too_long", 2)]
    assert "line_mib_max" in str(errors[0]["message"]) or "line_bytes_max" in str(errors[0]["message"])


def test_invalid_utf8_is_found_on_its_line(client: openai.OpenAI) -> None:
    errors = _failed(client, [chat_line("a", "a"), chat_line("b", "PLACE").replace(b"PLACE", b"\xff\xfe")])
    assert [(error["code"], error["line"]) for error in errors] == [("invalid_json_line", 2)]
    assert "UTF-8" in str(errors[0]["message"])


def test_a_duplicate_custom_id_names_both_lines(client: openai.OpenAI) -> None:
    errors = _failed(client, [chat_line("a", "a"), chat_line("b", "b"), chat_line("a", "c")])
    assert [(error["code"], error["line"]) for error in errors] == [("duplicate_custom_id", 3)]
    assert "1" in str(errors[0]["message"])


def test_an_unknown_model_is_named_with_what_is_served_and_the_alias_to_add(client: openai.OpenAI) -> None:
    errors = _failed(client, [chat_line("a", "a", model="gpt-4o-mini")])
    assert [(error["code"], error["line"]) for error in errors] == [("model_not_found", 1)]
    assert "gpt-4o-mini" in str(errors[0]["message"])
    assert "sim" in str(errors[0]["message"])


def test_a_url_that_is_not_the_batchs_endpoint_is_named(client: openai.OpenAI) -> None:
    errors = _failed(client, [chat_line("a", "a")], endpoint="/v1/embeddings")
    assert errors[0]["line"] == 1
    assert "/v1/chat/completions" in str(errors[0]["message"])


def test_every_error_of_a_file_is_reported_at_once(client: openai.OpenAI) -> None:
    lines = [chat_line("a", "a"), b"{", chat_line("b", "b", stream=True), b'{"custom_id": "c"}', chat_line("a", "d")]
    assert [error["line"] for error in _failed(client, lines)] == [2, 3, 4, 5]


def test_an_unknown_file_id_is_a_404_or_400_that_names_it(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="file-nothere"):
        client.files.retrieve("file-nothere")
    with pytest.raises(openai.APIStatusError, match="file-nothere") as refused:
        create(client, "file-nothere")
    assert refused.value.status_code in {400, 404}


def test_nothing_that_was_refused_disturbs_a_good_batch(client: openai.OpenAI) -> None:
    batch = wait_for(client, create(client, upload(client, [chat_line("a", "a")])).id)
    assert batch.status == "completed"
