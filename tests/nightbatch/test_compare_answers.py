"""Result lines of every make, their join, and what pairs of them come to."""

from __future__ import annotations

import base64
import io
import json
import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from nightbatch.inspection.results.answers import Answer, Form, NotAResult, answer_of, parse_json
from nightbatch.inspection.results.comparison import FIELDS_MAX, Comparison
from nightbatch.inspection.results.joining import Joined, ResultFile, index_results, join
from nightbatch.inspection.results.reading import reading
from nightbatch.inspection.results.report import for_programs, screen

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def line(custom_id: str, body: Any, status: int = 200, error: Any = None, **more: Any) -> bytes:
    response = None if body is None else {"status_code": status, "request_id": "r", "body": body}
    return json.dumps({"id": "x", "custom_id": custom_id, "response": response, "error": error, **more}).encode()


def chat(text: str | None, **message: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": "stop"}
    return {"object": "chat.completion", "model": "m", "choices": [choice], "usage": USAGE}


def text_answer(custom_id: str, text: str) -> Answer:
    return answer_of(line(custom_id, chat(text)))


VECTOR = [0.5, -1.0, 2.0]
PACKED = base64.b64encode(struct.pack("<3f", *VECTOR)).decode()


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (chat("hello"), "hello"),
        (chat(None, refusal="I cannot"), "I cannot"),
        (chat(None), ""),
        ({"choices": [{"text": "done", "finish_reason": "stop"}], "model": "m", "usage": USAGE}, "done"),
        (
            {
                "object": "response",
                "status": "completed",
                "model": "m",
                "output": [
                    {"type": "reasoning", "summary": []},
                    {"type": "message", "content": [{"type": "output_text", "text": "a"}, {"text": "b"}]},
                ],
                "usage": {"input_tokens": 7, "output_tokens": 3},
            },
            "ab",
        ),
    ],
)
def test_the_text_is_found_in_every_kind_of_answer(body: dict[str, Any], text: str) -> None:
    found = answer_of(line("a", body))
    assert (found.form, found.text, found.prompt_tokens, found.output_tokens) == (Form.TEXT, text, 7, 3)
    assert found.finish_reason in ("stop", "completed")


def test_a_message_of_anthropic_is_an_answer_too() -> None:
    message = {
        "type": "message",
        "model": "m",
        "content": [{"type": "text", "text": "hello"}, {"type": "tool_use", "name": "f", "input": {"b": 1, "a": 2}}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 7, "output_tokens": 3},
    }
    found = answer_of(json.dumps({"custom_id": "a", "result": {"type": "succeeded", "message": message}}).encode())
    assert (found.text, found.calls, found.finish_reason) == ("hello", ('f({"a":2,"b":1})',), "end_turn")
    assert (found.prompt_tokens, found.output_tokens, found.error) == (7, 3, None)
    nested = {"type": "error", "error": {"type": "overloaded_error", "message": "m"}}
    for result, error in (
        ({"type": "errored", "error": nested}, "overloaded_error"),
        ({"type": "expired"}, "expired"),
        ({"type": "succeeded"}, "succeeded"),
    ):
        assert answer_of(json.dumps({"custom_id": "a", "result": result}).encode()).error == error


@pytest.mark.parametrize("value", [VECTOR, PACKED])
def test_an_embedding_is_read_in_both_encodings(value: Any) -> None:
    body = {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": value}], "model": "e"}
    found = answer_of(line("a", body))
    assert found.form is Form.VECTORS
    assert found.vectors[0].tolist() == VECTOR


def test_tool_calls_are_compared_by_what_they_call() -> None:
    def calling(arguments: str) -> Answer:
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
        return answer_of(line("a", chat(None, tool_calls=[call])))

    assert calling('{"a": 1, "b": 2}').calls == calling('{"b":2,"a":1}').calls == ('f({"a":1,"b":2})',)
    assert calling("not json").calls == ("f(not json)",)


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (
            line("a", {"error": {"message": "m", "type": "t", "code": "context_length_exceeded"}}, 400),
            "400 context_length_exceeded",
        ),
        (line("a", None, error={"code": "batch_expired", "message": "late"}), "batch_expired"),
        (line("a", None, error="it broke\nbadly"), "it broke"),
        (line("a", None, error={"error": {"message": "m", "type": "BadRequestError", "code": 400}}), "BadRequestError"),
        (line("a", None, error={"object": "error", "message": "m", "type": "NotFound", "code": 404}), "NotFound"),
        (line("a", chat("x"), 500), "500 no answer"),
        (
            json.dumps({"custom_id": "a", "response": {"status_code": 200, "body": None}, "error": None}).encode(),
            "200 no answer",
        ),
    ],
    ids=["openai", "expired", "run-batch text", "run-batch object", "older vllm", "5xx", "no body"],
)
def test_a_failure_is_told_from_an_answer_whoever_wrote_it(raw: bytes, error: str) -> None:
    assert answer_of(raw).error == error


@pytest.mark.parametrize(
    "raw",
    [b"{", b"[]", b'{"response": {}}', b'{"custom_id": 1, "response": {}}', b"\xff", b'{"custom_id": "a", "body": {}}'],
)
def test_what_is_no_result_says_so(raw: bytes) -> None:
    with pytest.raises(NotAResult):
        answer_of(raw)


def test_a_line_of_azure_is_read_as_any_other() -> None:
    body = {**chat("hello"), "prompt_filter_results": [{"content_filter_results": {}}]}
    assert answer_of(line("a", body, error=None)).text == "hello"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        ('```json\n{"a": 1}\n```', {"a": 1}),
        ("```\n[1]\n```", [1]),
        ("hello", None),
        ("3", None),
        ("{", None),
    ],
)
def test_json_is_found_with_and_without_a_fence(text: str, value: Any) -> None:
    assert parse_json(text) == value


def joined(folder: Path, ours: bytes, theirs: bytes) -> Joined:
    paths = []
    for name, content in (("ours", ours), ("theirs", theirs)):
        paths.append(folder / name)
        paths[-1].write_bytes(content)
    return join(index_results(paths[0]), index_results(paths[1]))


ids = st.lists(st.text(alphabet="abcdé ✓", min_size=1, max_size=2), max_size=20)


@settings(deadline=None)
@given(ours=ids, theirs=ids, ending=st.sampled_from([b"\n", b"\r\n", b"\n\n"]))
def test_the_join_is_that_of_dictionaries_in_the_order_of_ours(
    ours: list[str], theirs: list[str], ending: bytes
) -> None:
    def content(names: list[str], side: str) -> bytes:
        return b"".join(line(name, chat(f"{side} {number}")) + ending for number, name in enumerate(names))

    left = {name: number for number, name in reversed(list(enumerate(ours)))}
    right = {name: number for number, name in reversed(list(enumerate(theirs)))}
    with tempfile.TemporaryDirectory() as folder:
        found = joined(Path(folder), content(ours, "o"), content(theirs, "t"))
        pairs = [(one[0].text, one[1].text) for one in found.read_pairs() if not isinstance(one, NotAResult)]
        alone = found.ids_of(found.ours, found.only_ours), found.ids_of(found.theirs, found.only_theirs)
    expected = [name for name in dict.fromkeys(ours) if name in right]
    assert pairs == [(f"o {left[name]}", f"t {right[name]}") for name in expected]
    assert alone[0] == [name for name in dict.fromkeys(ours) if name not in right][:5]
    assert alone[1] == [name for name in dict.fromkeys(theirs) if name not in left][:5]
    assert found.ours.repeated == len(ours) - len(left)


def test_lines_that_are_no_results_are_counted(tmp_path: Path) -> None:
    ours = b"\xef\xbb\xbf" + line("a", chat("x")) + b"\n{broken\n\n" + line("b", chat("y"))
    found = joined(tmp_path, ours, b'{"custom_id": "a", "body": {}}\n' + line("b", chat("y")))
    assert (found.count, found.ours.faulty, found.ours.faults[0][0]) == (2, 1, 2)
    pairs = list(found.read_pairs())
    assert isinstance(pairs[0], NotAResult)
    assert not isinstance(pairs[1], NotAResult)


texts = st.one_of(st.text(max_size=20), st.sampled_from(["yes", "no"]), st.just('{"label": "a", "n": {"m": 1}}'))


@given(answers=st.lists(texts, min_size=1, max_size=20))
def test_an_answer_always_agrees_with_itself(answers: list[str]) -> None:
    found = Comparison()
    for number, text in enumerate(answers):
        assert found.add(text_answer(str(number), text), text_answer(str(number), text)) is None
    assert found.exact.same == found.exact.of == len(answers)
    assert found.examples == []
    assert all(one.same.same == one.same.of for one in found.fields.values())
    assert reading(found)


def test_fields_are_measured_one_by_one() -> None:
    found = Comparison()
    for number in range(40):
        ours = json.dumps({"label": "ab"[number % 2], "extra": {"sure": True}})
        theirs = json.dumps({"extra": {"sure": number % 4 != 0}, "label": "a"} if number else {"label": "b"})
        found.add(text_answer(str(number), ours), text_answer(str(number), f"```json\n{theirs}\n```"))
    assert (found.fields["label"].same.same, found.fields["label"].same.of) == (19, 40)
    assert (found.fields["extra.sure"].same.same, found.fields["extra.sure"].missing) == (30, 1)
    assert found.objects.of == 40
    assert found.examples[0].what == "label and 1 more fields"


def test_one_field_can_be_looked_at_alone() -> None:
    found = Comparison(only_field="label")
    pair = text_answer("a", '{"label": "x", "why": "this"}'), text_answer("a", '{"label": "x", "why": "that"}')
    assert found.add(*pair) is None
    difference = found.add(pair[0], text_answer("a", '{"label": "y"}'))
    assert difference is not None
    assert (difference.what, difference.ours, difference.theirs) == ("label", "x", "y")
    assert reading(Comparison(only_field="none", outcomes=found.outcomes))[-1] == "No pair has the field none."


def test_plain_labels_have_a_kappa() -> None:
    found = Comparison()
    for number in range(30):
        found.add(text_answer("a", "Yes" if number % 3 else "no"), text_answer("a", "yes \n" if number % 2 else "No"))
    assert found.labels.enum_like
    assert any("labels" in sentence and "kappa" in sentence for sentence in reading(found))


def test_failures_are_counted_by_side_and_cause() -> None:
    found = Comparison()
    good, bad = text_answer("a", "x"), answer_of(line("a", None, error={"code": "batch_expired"}))
    for pair in ((good, good), (good, bad), (bad, good), (bad, bad)):
        found.add(*pair)
    assert found.outcomes == {(True, True): 1, (True, False): 1, (False, True): 1, (False, False): 1}
    assert found.causes[0] == found.causes[1] == {"batch_expired": 2}
    assert [one.what for one in found.examples] == ["answered by one side"] * 2


def test_embeddings_of_other_dimensions_cannot_be_compared() -> None:
    def embedding(*vectors: list[float]) -> Answer:
        return answer_of(line("a", {"data": [{"embedding": vector} for vector in vectors]}))

    found = Comparison()
    assert found.add(embedding([1, 0]), embedding([1, 0])) is None
    assert found.add(embedding([1, 0]), embedding([0, 1])) is not None
    found.add(embedding([1, 0]), embedding([1]))
    found.add(embedding([1, 0]), embedding([1, 0], [0, 1]))
    found.add(embedding([1, 0]), text_answer("a", "x"))
    assert (found.not_comparable, len(found.cosines.values)) == (3, 2)
    assert found.farthest[0][2] == "a"


def test_a_thousand_fields_do_not_fill_the_memory() -> None:
    found = Comparison()
    for number in range(1000):
        found.add(text_answer("a", json.dumps({f"k{number}": number})), text_answer("a", json.dumps({"k": number})))
    assert len(found.fields) == FIELDS_MAX
    assert found.objects.of == 1000


NOTHING = np.zeros(0, np.int64)
NO_FILE = ResultFile(Path("none"), NOTHING.astype(np.uint64), NOTHING, NOTHING, 0, 0, ())
EMPTY = Joined(NO_FILE, NO_FILE, (NOTHING, NOTHING), NOTHING, NOTHING)

leaf = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from(
        [10**30, -1, 1e300, "", "stop", "```json\n{}\n```", '{"a": [1, {"b": 2}]}', '{"a": 1e999}', PACKED]
    ),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
)
names = st.sampled_from(
    [
        "choices",
        "message",
        "content",
        "text",
        "output",
        "type",
        "data",
        "embedding",
        "usage",
        "prompt_tokens",
        "completion_tokens",
        "model",
        "error",
        "code",
        "tool_calls",
        "function",
        "arguments",
        "name",
        "finish_reason",
        "status",
        "incomplete_details",
        "reason",
        "body",
        "status_code",
        "refusal",
    ]
)
anything: st.SearchStrategy[Any] = st.recursive(
    leaf, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=5)), max_leaves=30
)
shaped = st.fixed_dictionaries(
    {"status_code": st.one_of(st.just(200), anything), "body": st.one_of(anything, st.dictionaries(names, anything))}
)


@settings(max_examples=1000, deadline=None)
@given(
    responses=st.tuples(shaped, shaped),
    error=st.one_of(st.none(), anything),
    result=st.one_of(st.none(), st.fixed_dictionaries({"type": st.just("succeeded"), "message": anything})),
    field=st.sampled_from([None, "a"]),
)
def test_no_result_however_odd_stops_a_comparison(
    responses: tuple[Any, Any], error: Any, result: Any, field: str | None
) -> None:
    sides = []
    for response in responses:
        raw = json.dumps({"custom_id": "a", "response": response, "error": error, "result": result}).encode()
        try:
            sides.append(answer_of(raw))
        except NotAResult:
            return
    found = Comparison(only_field=field)
    found.add(*sides)
    found.add(*reversed(sides))
    reading(found)
    json.dumps(for_programs(EMPTY, found))
    Console(file=io.StringIO(), width=80).print(screen(EMPTY, found))
