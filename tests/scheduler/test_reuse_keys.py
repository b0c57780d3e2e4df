"""Which requests may have each other's answers."""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.protocol import CHAT_COMPLETIONS, COMPLETIONS, EMBEDDINGS, RERANK, RESPONSES, SCORE
from scheduler.facts.reuse_keys import BODY_BYTES_MAX, ReuseKeys, canonical

HELLO = [{"role": "user", "content": "hello"}]
KEYS = ReuseKeys(blake2b(b"all that is common", digest_size=16), CHAT_COMPLETIONS)


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "messages": HELLO, **fields}).encode()


@pytest.mark.parametrize(
    ("endpoint", "fields", "repeatable"),
    [
        (CHAT_COMPLETIONS, {}, False),
        (CHAT_COMPLETIONS, {"temperature": 0}, True),
        (CHAT_COMPLETIONS, {"temperature": 0.0}, True),
        (CHAT_COMPLETIONS, {"temperature": 0.001}, False),
        (CHAT_COMPLETIONS, {"temperature": False}, False),
        (CHAT_COMPLETIONS, {"temperature": None}, False),
        (CHAT_COMPLETIONS, {"temperature": "0"}, False),
        (CHAT_COMPLETIONS, {"temperature": 0.7, "seed": 7}, True),
        (CHAT_COMPLETIONS, {"temperature": 0.7, "seed": True}, False),
        (CHAT_COMPLETIONS, {"seed": None}, False),
        (COMPLETIONS, {"prompt": "x", "temperature": 0}, True),
        (COMPLETIONS, {"prompt": "x"}, False),
        (RESPONSES, {"input": "x", "temperature": 0}, True),
        (RESPONSES, {"input": "x", "temperature": 0, "tools": [{"type": "function", "name": "f"}]}, True),
        (RESPONSES, {"input": "x", "temperature": 0, "tools": [{"type": "web_search"}]}, False),
        (RESPONSES, {"input": "x", "temperature": 0, "tools": "all"}, False),
        (EMBEDDINGS, {"input": "x"}, True),
        (SCORE, {"text_1": "x", "text_2": "y"}, True),
        (RERANK, {"query": "x", "documents": ["y"]}, True),
        ("/v1/elsewhere", {"temperature": 0}, False),
    ],
)
def test_only_what_would_come_out_the_same_again_is_shared(
    endpoint: str, fields: dict[str, Any], repeatable: bool
) -> None:
    assert (canonical(body(**fields), endpoint) is not None) is repeatable


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}],
        [{"type": "image_url", "image_url": "https://example.org/a.png"}],
        [{"type": "audio_url", "audio_url": {"url": "file:///a.wav"}}],
        [{"type": "text", "text": "x"}, {"type": "video_url", "video_url": {"url": 1}}],
    ],
)
def test_what_an_engine_fetches_from_elsewhere_is_not_shared(content: list[Any]) -> None:
    messages = [{"role": "user", "content": content}]
    assert canonical(body(messages=messages, temperature=0), CHAT_COMPLETIONS) is None


def test_a_picture_in_the_body_itself_is_shared() -> None:
    content = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    messages = [{"role": "user", "content": content}]
    assert canonical(body(messages=messages, temperature=0), CHAT_COMPLETIONS) is not None


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"null",
        b'{"temperature": 0',
        b'{"temperature": 0, "x": 1e999}',
        b'{"temperature": 0, "x": "\xff"}',
        b'{"temperature": 0, "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"temperature": 0, "x": "' + b"y" * BODY_BYTES_MAX + b'"}',
    ],
)
def test_what_cannot_be_read_or_is_too_long_is_not_shared(raw: bytes) -> None:
    assert canonical(raw, CHAT_COMPLETIONS) is None


def test_how_a_request_is_written_makes_no_difference() -> None:
    one = b'{"model":"m","messages":[{"role":"user","content":"h\\u00e9"}],"temperature":0}'
    other = '{"temperature": 0,\n "messages": [{"content": "hé", "role": "user"}], "model": "m"}'.encode()
    assert KEYS.of(one) == KEYS.of(other) is not None


@pytest.mark.parametrize("name", ["priority", "request_id", "user", "service_tier", "stream", "cache_salt"])
def test_fields_without_a_part_in_the_answer_make_no_difference(name: str) -> None:
    assert KEYS.of(body(temperature=0, **{name: 1})) == KEYS.of(body(temperature=0)) is not None


@pytest.mark.parametrize(
    "fields", [{"max_tokens": 5}, {"n": 2}, {"model": "other"}, {"seed": 1}, {"metadata": {"row": "1"}}, {"x": None}]
)
def test_every_other_field_makes_a_difference(fields: dict[str, Any]) -> None:
    assert KEYS.of(body(**{"temperature": 0, **fields})) != KEYS.of(body(temperature=0))


def test_an_answer_that_gives_the_user_back_is_for_that_user() -> None:
    keys = ReuseKeys(blake2b(digest_size=16), RESPONSES)
    assert keys.of(body(temperature=0, user="a")) != keys.of(body(temperature=0, user="b"))


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


def exact(value: Any) -> Any:
    """Told apart as JSON tells it: 1, 1.0 and true are three things."""
    if isinstance(value, dict):
        return tuple(sorted((name, exact(inner)) for name, inner in value.items()))
    if isinstance(value, list):
        return ("list", *map(exact, value))
    return type(value).__name__, repr(value)


@given(plain, plain)
def test_two_requests_have_one_key_only_if_they_are_one(left: Any, right: Any) -> None:
    one, other = (json.dumps({"x": value}).encode() for value in (left, right))
    texts = canonical(one, EMBEDDINGS), canonical(other, EMBEDDINGS)
    if None not in texts:
        assert (texts[0] == texts[1]) is (exact(left) == exact(right))


@given(st.dictionaries(st.text(), plain, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_fields_and_the_space_between_them_make_no_difference(fields: dict[str, Any], chance: Any) -> None:
    names = list(fields)
    chance.shuffle(names)
    shuffled = json.dumps({name: fields[name] for name in names}, indent=1, ensure_ascii=False)
    if any("\ud800" <= character <= "\udfff" for character in shuffled):
        return
    assert canonical(json.dumps(fields).encode(), EMBEDDINGS) == canonical(shuffled.encode(), EMBEDDINGS)
