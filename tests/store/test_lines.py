from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.common_lines import columns_of, common_lines
from store.line_blocks import Block
from store.line_shapes import LineFacts, explain, ladder_of
from store.lines import check_line, common_shape, decode_common, parse_line
from store.records import LineError

CHAT = "/v1/chat/completions"


def a_line(fields: dict[str, Any] | None = None, **changes: Any) -> bytes:
    line: dict[str, Any] = {
        "custom_id": "a",
        "method": "POST",
        "url": CHAT,
        "body": {"model": "m", **({"messages": []} if fields is None else fields)},
    }
    line.update(changes)
    return json.dumps({key: value for key, value in line.items() if value is not ...}, ensure_ascii=False).encode()


def facts_of(body: dict[str, Any]) -> LineFacts:
    found = check_line(a_line(body))
    assert isinstance(found, LineFacts), found
    return found


def error_of(raw: bytes) -> LineError:
    found = check_line(raw, line=7)
    assert isinstance(found, LineError), found
    assert found.line == 7
    return found


def test_the_facts_of_a_chat_line_are_its_texts_and_limits() -> None:
    facts = check_line(
        a_line(
            {
                "messages": [
                    {"role": "system", "content": "größer"},
                    {
                        "role": "user",
                        "content": [{"type": "text", "text": "ab"}, {"type": "image_url", "image_url": {}}],
                    },
                    {"role": "assistant", "content": None, "tool_calls": []},
                ],
                "max_completion_tokens": 9,
                "max_tokens": 5,
                "n": 3,
            },
            custom_id=" spaced \u2028 id ",
        )
    )
    assert facts == LineFacts(" spaced \u2028 id ", CHAT, "m", len("größerab".encode()), 9, 3, bytes(32))


@pytest.mark.parametrize(
    ("body", "sub_requests", "prompt_bytes"),
    [
        ({"prompt": "abc"}, 1, 3),
        ({"prompt": ["abc", "de"], "n": 2}, 4, 5),
        ({"prompt": [1, 2, 3]}, 1, 12),
        ({"prompt": [[1, 2], [3]], "n": 2}, 4, 12),
        ({"input": "abc"}, 1, 3),
        ({"input": ["abc", "de", "f"]}, 3, 6),
        ({"input": [[1, 2], [3]]}, 2, 12),
        ({"input": [{"role": "user", "content": "abc"}]}, 1, 3),
        ({"text_1": "query", "text_2": ["ab", "c"]}, 2, 13),
        ({"query": "query", "documents": ["ab", "c", "d"]}, 3, 19),
        ({"query": "query", "documents": [{"text": "ab"}]}, 1, 7),
        ({"data_1": ["x", "y"], "data_2": ["a", "b"]}, 2, 4),
        ({"messages": "not messages"}, 1, 12),
        ({"messages": [], "n": True}, 1, 0),
        ({}, 1, 0),
    ],
)
def test_sub_requests_and_prompt_bytes_follow_the_endpoints_shapes(
    body: dict[str, Any], sub_requests: int, prompt_bytes: int
) -> None:
    facts = facts_of(body)
    assert (facts.sub_requests, facts.prompt_bytes) == (sub_requests, prompt_bytes)


@pytest.mark.parametrize(
    ("limits", "output_tokens"),
    [
        ({"max_tokens": 5}, 5),
        ({"max_output_tokens": 6}, 6),
        ({"max_completion_tokens": 7, "max_tokens": 5}, 7),
        ({"max_tokens": 8.0}, 8),
        ({"max_tokens": -8}, 0),
        ({"max_tokens": 10**30}, 0xFFFF_FFFF),
        ({"max_tokens": "many"}, 0),
        ({}, 0),
    ],
)
def test_the_output_limit_is_the_first_given(limits: dict[str, Any], output_tokens: int) -> None:
    assert facts_of({"messages": [], **limits}).output_tokens == output_tokens


def test_tools_count_as_prompt() -> None:
    assert facts_of({"messages": [], "tools": [{"type": "function"}]}).prompt_bytes == len('[{"type": "function"}]')


def test_the_ladder_says_how_long_a_prefix_two_prompts_share() -> None:
    one = ladder_of(b"x" * 1024 + b"1" * 16000)
    two = ladder_of(b"x" * 1024 + b"2" * 16000)
    steps = [one[at : at + 8] == two[at : at + 8] for at in range(0, 32, 8)]
    assert steps == [True, True, False, False]
    assert ladder_of(b"x" * 255) == bytes(32)
    assert ladder_of(b"x" * 300)[8:] == bytes(24)


@pytest.mark.parametrize(
    ("raw", "code", "param"),
    [
        (b"{", "invalid_json_line", None),
        (b"", "invalid_json_line", None),
        (b"nonsense", "invalid_json_line", None),
        (b"{} {}", "invalid_json_line", None),
        (b'{"a": NaN}', "invalid_json_line", None),
        (b'{"body": {"temperature": NaN}}', "invalid_json_line", None),
        (b'{"body": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid_json_line", None),
        (a_line()[:-1] + b', "x": "\xff"}', "invalid_json_line", None),
        (a_line({"user": "?"}).replace(b"?", b"\xc3\x28"), "invalid_json_line", None),
        (b"[1]", "invalid_request", None),
        (a_line(custom_id=...), "missing_required_parameter", "custom_id"),
        (a_line(method=...), "missing_required_parameter", "method"),
        (a_line(url=...), "missing_required_parameter", "url"),
        (a_line(body=...), "missing_required_parameter", "body"),
        (a_line(body={}), "missing_required_parameter", "body.model"),
        (a_line(custom_id=3), "invalid_request", "custom_id"),
        (a_line(custom_id=""), "invalid_request", "custom_id"),
        (a_line(custom_id=None), "invalid_request", "custom_id"),
        (a_line(method="GET"), "invalid_method", "method"),
        (a_line(method=None), "invalid_method", "method"),
        (a_line(url=""), "invalid_request", "url"),
        (a_line(url="/" * 513), "invalid_request", "url"),
        (a_line(body=None), "invalid_request", "body"),
        (a_line(body=[]), "invalid_request", "body"),
        (a_line({"model": 3}), "invalid_request", "body.model"),
        (a_line({"model": ""}), "invalid_request", "body.model"),
        (a_line({"stream": True}), "invalid_request", "body.stream"),
    ],
)
def test_a_form_error_has_its_code_and_names_its_field(raw: bytes, code: str, param: str | None) -> None:
    found = error_of(raw)
    assert (found.code, found.param) == (code, param)
    assert param is None or param in found.message


def test_deep_texts_are_an_error_of_the_line_and_not_of_the_process() -> None:
    nested: Any = "x"
    for _ in range(700):
        nested = {"content": nested}
    deep = a_line({"messages": [nested]})
    assert isinstance(check_line(deep), LineFacts | LineError)


def test_a_line_opens_with_its_custom_id_and_body_as_written() -> None:
    body = '{"model": "m", "b": [1.50, "\\u00e9"]}'
    raw = '{"custom_id": "\\u0020é\\n", "method": "POST", "url": "/v1/x", "body":  ' + body + " }"
    opened = parse_line(raw.encode())
    assert (opened.custom_id, opened.url) == (" é\n", "/v1/x")
    assert opened.body == body.encode()
    with pytest.raises(ValueError, match="not a well-formed input line"):
        parse_line(b"{}")


SMALL = st.one_of(st.none(), st.booleans(), st.integers(-2, 5), st.sampled_from(["", "text", "größe", "x" * 300]))
TEXTS = st.one_of(SMALL, st.lists(st.one_of(SMALL, st.fixed_dictionaries({"type": st.just("text"), "text": SMALL}))))
MESSAGES = st.lists(st.fixed_dictionaries({}, optional={"role": SMALL, "content": TEXTS, "text": SMALL}), max_size=3)
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "model": st.one_of(st.just("m"), SMALL),
        "messages": st.one_of(MESSAGES, SMALL),
        "prompt": TEXTS,
        "input": TEXTS,
        "n": SMALL,
        "max_tokens": SMALL,
        "max_completion_tokens": SMALL,
        "max_output_tokens": SMALL,
        "stream": SMALL,
        "tools": TEXTS,
        "query": TEXTS,
        "documents": TEXTS,
    },
)


@given(body=BODIES, custom_id=st.one_of(st.just("a"), SMALL), method=st.sampled_from(["POST", "post", None]))
def test_the_fast_look_at_a_line_agrees_with_the_complete_one(
    body: dict[str, Any], custom_id: Any, method: Any
) -> None:
    raw = json.dumps({"custom_id": custom_id, "method": method, "url": CHAT, "body": body}).encode()
    fast = common_shape(raw)
    assert fast is None or fast == explain(raw, 1)


def one_by_one(lines: list[bytes]) -> list[tuple[Any, ...]] | None:
    found = [common_shape(line) for line in lines]
    rows = [msgspec.structs.astuple(facts) for facts in found if facts is not None]
    return rows if len(rows) == len(lines) else None


def together(lines: list[bytes]) -> list[tuple[Any, ...]] | None:
    decoded = decode_common(b"\n".join(lines))
    columns = None if decoded is None else columns_of(decoded)
    if columns is None:
        return None
    fields = (columns.custom_ids, columns.urls, columns.models, columns.prompt_bytes)
    return list(zip(*fields, columns.output_tokens, columns.sub_requests, columns.ladders, strict=True))


@given(
    bodies=st.lists(BODIES, min_size=1, max_size=3),
    ascii_only=st.booleans(),
)
def test_lines_opened_together_have_the_facts_they_have_alone(bodies: list[dict[str, Any]], ascii_only: bool) -> None:
    lines = [
        json.dumps({"custom_id": "ä", "method": "POST", "url": CHAT, "body": body}, ensure_ascii=ascii_only).encode()
        for body in bodies
    ]
    assert together(lines) == one_by_one(lines)


def test_chats_opened_together_have_the_facts_they_have_alone() -> None:
    limits: list[dict[str, Any]] = [{}, {"max_tokens": 3, "n": 2}, {"max_completion_tokens": 4, "max_tokens": 9}]
    contents = [["ä" * 200, "b"], ["x" * 1100], []]
    lines = [
        a_line({"messages": [{"role": "user", "content": content} for content in texts], **limit})
        for texts, limit in zip(contents, limits, strict=True)
    ]
    assert together(lines) == one_by_one(lines)
    assert together(lines) is not None


GOOD = a_line()


@pytest.mark.parametrize(
    "data",
    [
        GOOD + b"\n" + GOOD.replace(b", ", b",\n"),
        GOOD + GOOD + b"\n" + GOOD[:-1] + b"\n" + GOOD[-1:],
        GOOD + GOOD,
        GOOD + b"\n\n" + GOOD,
        b"\n" + GOOD,
        GOOD + b"\n",
        GOOD + b"\r\n" + GOOD + b"\r\n\r",
        GOOD + b"\r\r\n" + GOOD,
        GOOD + b" \n" + GOOD,
        GOOD + b"\n" + GOOD[:-1] + b', "x": "\xff"}',
        a_line({"user": "?"}).replace(b"?", b"}\n{"),
        GOOD + b"\n" + b"{}",
        b"",
    ],
)
def test_lines_are_opened_together_only_when_each_is_one_value(data: bytes) -> None:
    assert common_lines(Block(0, data)) is None


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_lines_opened_together_are_found_where_they_stand(ending: bytes) -> None:
    longer = a_line({"messages": [{"role": "user", "content": "größer"}]})
    data = (GOOD + ending + longer + ending + GOOD + ending).removesuffix(b"\n")
    lines = common_lines(Block(100, data))
    assert lines is not None
    second = 100 + len(GOOD + ending)
    assert lines.offsets.tolist() == [100, second, second + len(longer + ending)]
    assert lines.lengths.tolist() == [len(GOOD), len(longer), len(GOOD)]
