"""What lines of a shard have in common, and the order that keeps it together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.policy.prefixes import NO_PREFIX, Prefix, arrangement, common_bytes, prefixes
from store.line_shapes import LADDER_BYTES, ladder_of


def ladder(texts: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(map(ladder_of, texts)), "<u8").reshape(len(texts), len(LADDER_BYTES))


def prefixes_of(texts: list[bytes]) -> list[Prefix]:
    sizes = np.array([len(text) for text in texts], dtype=np.uint32)
    return prefixes(ladder=ladder(texts), prompt_bytes=sizes, bodies=texts, bytes_per_token=4.0)


def arranged(texts: list[bytes], output_tokens: list[int] | None = None) -> list[int]:
    outputs = np.array(output_tokens or [16] * len(texts), dtype=np.uint32)
    return arrangement(ladder=ladder(texts), output_tokens=outputs, bodies=texts)


def test_what_lines_have_in_common_is_measured_to_the_byte_not_to_the_step() -> None:
    shared = b"x" * 2_000
    found = prefixes_of([shared + b"one", shared + b"two", shared + b"three"])
    assert len(set(found)) == 1
    assert found[0].tokens in {500, 501}


def test_the_same_beginning_has_the_same_key_in_every_shard_however_many_lines_have_it() -> None:
    shared, other = b"x" * 2_000, b"y" * 2_000
    alone, _ = prefixes_of([shared + b"a question", other])
    together = prefixes_of([shared + b"one", shared + b"two"])
    assert alone.key == together[0].key
    assert alone.tokens == 0 < together[0].tokens


def test_short_prompts_have_no_prefix() -> None:
    assert prefixes_of([b"hello", b"hello"]) == [NO_PREFIX, NO_PREFIX]
    assert prefixes_of([]) == []


def test_documents_under_common_instructions_are_prefixes_of_their_own() -> None:
    instructions = b"i" * 300
    one, two = (instructions + letter * 3_000 for letter in (b"1", b"2"))
    found = prefixes_of([one + b"a", one + b"b", two + b"a", two + b"b"])
    assert [prefix.key for prefix in found] == [found[0].key] * 2 + [found[2].key] * 2
    assert found[0].key != found[2].key
    assert found[0].tokens == 825


def test_documents_shorter_than_a_step_stand_together_in_a_shard() -> None:
    instructions = b"i" * 300
    texts = [instructions + letter * 200 + bytes([no]) for no, letter in enumerate([b"1", b"2", b"1", b"3", b"2"])]
    assert arranged(texts) == [0, 2, 1, 4, 3]


def test_lines_that_may_run_longer_stay_in_front_of_others_with_their_prefix() -> None:
    texts = [b"i" * 300 + letter for letter in (b"c", b"b", b"a", b"c", b"b", b"a")]
    assert arranged(texts, [64] * 3 + [16] * 3) == [2, 1, 0, 5, 4, 3]


def test_lines_that_share_nothing_stay_as_they_are() -> None:
    assert arranged([letter * 300 for letter in (b"c", b"b", b"a")]) == [0, 1, 2]
    assert arranged([b"c", b"b", b"a"]) == [0, 1, 2]
    assert arranged([]) == []


@pytest.mark.parametrize(
    ("texts", "expected"),
    [([b""], 0), ([b"abc"], 3), ([b"abc", b"abd"], 2), ([b"abc", b"abcd", b"ab"], 2), ([b"x", b"y"], 0)],
)
def test_the_common_beginning_of_texts(texts: list[bytes], expected: int) -> None:
    assert common_bytes(texts) == expected


@given(st.lists(st.binary(max_size=12), min_size=1, max_size=6))
def test_the_common_beginning_is_one_and_no_longer_one_is(texts: list[bytes]) -> None:
    common = common_bytes(texts)
    assert len({text[:common] for text in texts}) == 1
    assert len({text[: common + 1] for text in texts}) > 1 or common == min(map(len, texts))


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.sampled_from([16, 64])), max_size=20))
def test_an_arrangement_is_a_permutation_that_moves_no_line_to_another_prefix_or_length(
    lines: list[tuple[int, int, int]],
) -> None:
    lines.sort(key=lambda line: (line[0], -line[2]))
    texts = [bytes([65 + group]) * 300 + bytes([97 + tail]) for group, tail, _ in lines]
    outputs = [line[2] for line in lines]
    places = arranged(texts, outputs) if lines else []
    assert sorted(places) == list(range(len(lines)))
    assert [(texts[at][0], outputs[at]) for at in places] == [
        (text[0], tokens) for text, tokens in zip(texts, outputs, strict=True)
    ]
