"""Quality adds up: however results are grouped, the counts are the same, and their size is bounded."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.answers import normalised, read_answer
from store.asked import AskedReader
from store.quality import GROUPS_MAX, LABELS_MAX, Quality, bucket_of, length_of, quality_of

SCHEMA = {
    "type": "object",
    "properties": {"label": {"$ref": "#/$defs/Label"}, "why": {"type": "string"}},
    "required": ["label"],
    "$defs": {"Label": {"enum": ["a", "b"]}},
}
CHAT = json.dumps({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}).encode()
RESPONSES = json.dumps({"text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}}).encode()


def line(body: dict[str, Any], *, status: int = 200, custom_id: str = "c") -> bytes:
    response = {"status_code": status, "request_id": "r", "body": body}
    return json.dumps({"id": "x", "custom_id": custom_id, "response": response, "error": None}).encode()


def chat(content: str | None, *, reason: str = "stop", tokens: int = 5, **message: Any) -> bytes:
    choice = {"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": content, **message}}
    return line({"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": tokens}})


def response(content: str, **more: Any) -> bytes:
    part = {"type": "output_text", "text": content}
    return line({"output": [{"type": "message", "content": [part]}], "usage": {"output_tokens": 4}, **more})


@pytest.mark.parametrize(
    ("raw", "body", "conditions"),
    [
        (chat('{"label": "a"}'), CHAT, set()),
        (chat('{"label": "c"}'), CHAT, {"schema-mismatch"}),
        (chat('{"label": "a'), CHAT, {"invalid-json"}),
        (chat('{"label": "a', reason="length"), CHAT, {"invalid-json", "length"}),
        (chat(" \n"), b"{}", {"empty"}),
        (chat(None), b"{}", {"empty"}),
        (chat(None, tool_calls=[{"id": "1"}]), CHAT, set()),
        (chat(None, refusal="no"), CHAT, {"refusal"}),
        (chat("x", reason="content_filter"), b"{}", {"content_filter"}),
        (chat("no json"), b'{"response_format": {"type": "json_object"}}', {"invalid-json"}),
        (chat("no json"), b'{"response_format": null}', set()),
        (chat("no json"), b'{"response_format": "odd"}', set()),
        (response('{"label": "b"}'), RESPONSES, set()),
        (response('{"label": 1}'), RESPONSES, {"schema-mismatch"}),
        (response("x", incomplete_details={"reason": "max_output_tokens"}), b"{}", {"length"}),
        (line({"data": [], "usage": {"prompt_tokens": 3}}), b"{}", set()),
        (line({"choices": "odd"}), b"{}", set()),
    ],
)
def test_what_is_wrong_with_an_answer_is_told(raw: bytes, body: bytes, conditions: set[str]) -> None:
    assert read_answer(raw, succeeded=True, asked=AskedReader().read(body)).conditions == conditions


def test_a_schema_that_refers_to_elsewhere_fetches_nothing_and_blames_no_answer() -> None:
    schema = {"$ref": "http://127.0.0.1:1/schema.json"}
    body = json.dumps({"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}).encode()
    answer = read_answer(chat('{"a": 1}'), succeeded=True, asked=AskedReader().read(body))
    assert (answer.json_asked, answer.conditions) == (True, set())


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5_000), st.sampled_from("abc")), max_size=60), st.data())
def test_quality_is_the_same_however_the_results_are_grouped(
    rows: list[tuple[bool, int, str]], data: st.DataObject
) -> None:
    results = [
        (no, True, chat(json.dumps({"label": label}), tokens=tokens), CHAT)
        if succeeded
        else (no, False, line({"error": {"code": label, "message": f"line {tokens}"}}, status=400), CHAT)
        for no, (succeeded, tokens, label) in enumerate(rows)
    ]
    whole = quality_of(results, AskedReader())
    cuts = sorted(data.draw(st.lists(st.integers(0, len(results)), max_size=4)))
    summed = Quality()
    for start, stop in zip([0, *cuts], [*cuts, len(results)], strict=True):
        summed.merge(Quality.decode(quality_of(results[start:stop], AskedReader()).encode()))
    assert summed == whole


def test_errors_of_one_cause_are_one_group_and_causes_without_end_stay_bounded() -> None:
    one = normalised("maximum is 2,048 tokens, request req_0a1b2c3d4e5f6a7b8c9d had 4123")
    assert one == normalised("maximum is 1024 tokens, request req_ffffffffffffffff0000 had 5")
    rows = [
        (no, False, line({"error": {"code": "x" * (no + 1), "message": "m"}}, status=400), None) for no in range(80)
    ]
    quality = quality_of(rows, AskedReader())
    assert (len(quality.groups), quality.other_errors) == (GROUPS_MAX, 80 - GROUPS_MAX)


def test_labels_without_end_stay_bounded() -> None:
    schema = {"properties": {"label": {"enum": [f"label {no}" for no in range(200)]}}}
    body = json.dumps({"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}).encode()
    rows = [(no, True, chat(json.dumps({"label": f"label {no}"})), body) for no in range(200)]
    labels = quality_of(rows, AskedReader()).labels["label"]
    assert (len(labels), sum(labels.values())) == (LABELS_MAX + 1, 200)


@given(st.integers(0, 10_000_000))
def test_a_length_is_told_to_within_nine_percent(tokens: int) -> None:
    assert abs(length_of(bucket_of(tokens)) - tokens) <= 0.09 * tokens
