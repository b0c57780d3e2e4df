"""The morning after, against a real server process: what is wrong, the lines of it again, one file of all."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from nightbatch import exits
from tests.nightbatch.test_with_a_server import run, written
from tests.support.batches import chat_line, create, simulated, upload, wait_for
from tests.support.process import ServerProcess

SCHEMA = {"type": "object", "properties": {"label": {"enum": ["a", "b"]}}, "required": ["label"]}
JSON_ANSWER = {"type": "json_schema", "json_schema": {"name": "label", "schema": SCHEMA}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    process = ServerProcess(tmp_path_factory.mktemp("server"), config=simulated()).start()
    yield process
    process.stop()


def lines() -> list[bytes]:
    found = []
    for no in range(60):
        if no % 20 == 19:
            found.append(chat_line(f"row-{no}", "far too long " * 5_000))
        elif no % 3 == 0:
            found.append(chat_line(f"row-{no}", f"question {no}", response_format=JSON_ANSWER))
        else:
            found.append(chat_line(f"row-{no}", f"question {no}", max_tokens=2 if no % 2 else 400))
    return found


def ended(server: ServerProcess, raw: list[bytes]) -> Any:
    with server.client() as client:
        return wait_for(client, create(client, upload(client, raw)).id)


def post(server: ServerProcess, batch_id: str, body: object) -> httpx2.Response:
    return httpx2.post(f"{server.url}/v1/batches/{batch_id}/retry", json=body, timeout=60)


def merged(server: ServerProcess, batch_id: str, **query: str) -> list[dict[str, Any]]:
    answer = httpx2.get(f"{server.url}/v1/batches/{batch_id}/merged", params=query, timeout=60)
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.content.splitlines()]


def test_status_says_what_is_wrong_and_the_retry_it_suggests_puts_it_right(
    server: ServerProcess, tmp_path: Path
) -> None:
    done = run(server, "submit", str(written(tmp_path, lines())), "--wait", "--output", str(tmp_path))
    batch_id = done.stdout.split()[0]
    told = run(server, "status", batch_id).stdout
    assert "cut by max_tokens" in told
    assert "context_length_exceeded" in told
    assert "(row-19)" in told
    assert f"nightbatch retry {batch_id} --where length --set max_tokens=1024" in told
    dry = run(server, "retry", batch_id, "--where", "length", "--set", "max_tokens=1024", "--dry-run")
    cut = int(dry.stdout.split()[0])
    assert cut > 0
    again = run(
        server, "retry", batch_id, "--where", "length", "--set", "max_tokens=1024", "--wait", "--output", str(tmp_path)
    )
    assert again.returncode == exits.OK, again.stderr
    assert f"{cut} of {cut} lines succeeded" in again.stdout
    assert run(server, "results", batch_id, "--merged", "--output", str(tmp_path)).returncode == exits.OK
    whole = [json.loads(line) for line in (tmp_path / f"{batch_id}_merged.jsonl").read_text().splitlines()]
    assert [line["custom_id"] for line in whole] == [f"row-{no}" for no in range(60)]
    reasons = [c["finish_reason"] for line in whole for c in (line["response"]["body"].get("choices") or [])]
    assert set(reasons) == {"stop"}


def test_a_retry_of_lines_that_share_answers_generates_new_ones_and_merges_with_the_rest(
    server: ServerProcess,
) -> None:
    raw = [chat_line(f"row-{no}", f"question {no % 5}", temperature=0, max_tokens=2) for no in range(20)]
    with server.client() as client:
        parents = [
            wait_for(
                client,
                client.batches.create(
                    input_file_id=upload(client, raw),
                    endpoint="/v1/chat/completions",
                    completion_window="24h",
                    extra_body={"reuse": "server"},
                ).id,
            )
            for _ in range(2)
        ]
        assert [parent.model_extra["reused_requests"] for parent in parents if parent.model_extra] == [15, 20]
        answer = post(server, parents[1].id, {"where": ["length"]})
        assert answer.status_code == 200, answer.text
        child = wait_for(client, answer.json()["id"])
    assert child.model_extra is not None
    assert child.request_counts is not None
    cut = child.request_counts.total
    assert (child.model_extra["reuse"], cut % 4) == ("batch", 0)
    assert child.model_extra["reused_requests"] == cut * 3 // 4
    assert [line["custom_id"] for line in merged(server, parents[1].id)] == [f"row-{no}" for no in range(20)]


def test_a_retry_runs_exactly_the_lines_asked_for_in_their_order_with_the_fields_set(server: ServerProcess) -> None:
    parent = ended(server, lines())
    answer = post(
        server, parent.id, {"where": ["error", "length"], "set": {"max_tokens": 500, "stream_options.x": True}}
    )
    assert answer.status_code == 200, answer.text
    child = answer.json()
    assert child["parent_batch_id"] == parent.id
    quality = parent.model_extra["quality"]
    assert int(answer.headers["x-nightbatch-retried-lines"]) == 3 + quality["answers"]["length"]
    with server.client() as client:
        raw = client.files.content(child["input_file_id"]).content
    again = [json.loads(line) for line in raw.splitlines()]
    numbers = [int(line["custom_id"].removeprefix("row-")) for line in again]
    assert numbers == sorted(numbers)
    assert {19, 39, 59} <= set(numbers)
    assert all(line["body"]["max_tokens"] == 500 for line in again)
    assert all(line["body"]["stream_options"] == {"x": True} for line in again)


def test_a_retry_has_a_deadline_of_its_own(server: ServerProcess) -> None:
    parent = ended(server, lines())
    at = int(time.time()) + 7200
    child = post(server, parent.id, {"where": ["error"], "deadline_at": at}).json()
    assert (child["deadline_at"], child["expires_at"]) == (at, at)
    refused = post(server, parent.id, {"where": ["error"], "deadline_at": "07:00"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "deadline_at")


def test_an_output_limit_is_set_under_the_name_that_the_line_uses(server: ServerProcess) -> None:
    line = json.loads(chat_line("one", "tell me more"))
    line["body"]["max_completion_tokens"] = 1
    del line["body"]["max_tokens"]
    parent = ended(server, [json.dumps(line).encode()])
    plan = post(server, parent.id, {"where": ["length"], "set": {"max_tokens": 99}, "dry_run": True}).json()
    assert plan["lines"] == 1
    assert "max_completion_tokens" in plan["notes"][0]
    child = post(server, parent.id, {"where": ["length"], "set": {"max_tokens": 99}}).json()
    with server.client() as client:
        body = json.loads(client.files.content(child["input_file_id"]).content)["body"]
    assert body["max_completion_tokens"] == 99
    assert "max_tokens" not in body


def test_merged_results_come_by_kind_and_without_a_retry_are_the_batch_itself(server: ServerProcess) -> None:
    parent = ended(server, lines())
    assert len(merged(server, parent.id)) == 60
    assert len(merged(server, parent.id, kind="output")) == parent.request_counts.completed
    assert len(merged(server, parent.id, kind="error")) == parent.request_counts.failed


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "where"),
        ({"where": []}, "where"),
        ({"where": ["nonsense"]}, "where"),
        ({"where": [["length"]]}, "where"),
        ({"where": ["refusal"]}, "where"),
        ({"where": ["length"], "set": [1]}, "set"),
        ({"where": ["length"], "set": {"a..b": 1}}, "set"),
        ({"where": ["length"], "completion_window": "3 moons"}, "completion_window"),
        ({"where": ["length"], "dry_run": "yes"}, "dry_run"),
    ],
)
def test_a_retry_that_makes_no_sense_is_a_400_that_says_why(
    server: ServerProcess, body: dict[str, object], param: str
) -> None:
    parent = ended(server, [chat_line("one", "hello")])
    answer = post(server, parent.id, body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_a_retry_after_the_input_is_deleted_is_a_400_and_so_is_merging_without_a_result_file(
    server: ServerProcess,
) -> None:
    parent = ended(server, [chat_line("one", "hello")])
    with server.client() as client:
        client.files.delete(parent.input_file_id)
        refused = post(server, parent.id, {"where": ["error"]})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "input_file_deleted")
        assert len(merged(server, parent.id)) == 1
        client.files.delete(parent.output_file_id)
    answer = httpx2.get(f"{server.url}/v1/batches/{parent.id}/merged", timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "result_file_deleted")


def test_a_batch_that_runs_can_be_neither_retried_nor_merged(server: ServerProcess) -> None:
    with server.client() as client:
        running = create(client, upload(client, [chat_line(f"c{no}", "hello") for no in range(3_000)]))
        refused = post(server, running.id, {"where": ["error"]})
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "batch_not_ended")
        answer = httpx2.get(f"{server.url}/v1/batches/{running.id}/merged", timeout=60)
        assert answer.status_code == 409
        wait_for(client, running.id)


def test_a_list_of_batches_leaves_the_quality_out(server: ServerProcess) -> None:
    ended(server, [chat_line("one", "hello")])
    listed = httpx2.get(f"{server.url}/v1/batches", timeout=60).json()["data"]
    assert all(batch["quality"] is None for batch in listed)
