"""What lines have in common, what they should cost, and how a batch's work lies in its lines."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.facts.curve import curve_of
from scheduler.facts.expecting import expected_outputs, expected_work
from scheduler.facts.lengths import Known
from scheduler.facts.templates import seed_of, shared_prefixes, template_of_body, templates_of

LADDER = np.array(
    [
        [1, 10, 0, 0],
        [1, 10, 0, 0],
        [1, 11, 0, 0],
        [2, 12, 0, 0],
        [0, 0, 0, 0],
        [0, 0, 0, 0],
        [3, 13, 30, 0],
        [3, 13, 31, 0],
    ],
    dtype=np.uint64,
)


def test_lines_belong_to_the_longest_prefix_that_a_neighbour_shares() -> None:
    hashes, sizes = shared_prefixes(lambda step: LADDER[:, step], len(LADDER))
    assert hashes.tolist() == [10, 10, 1, 0, 0, 0, 13, 13]
    assert sizes.tolist() == [1024, 1024, 256, 0, 0, 0, 1024, 1024]


def test_templates_differ_by_model_and_lines_that_share_nothing_have_none() -> None:
    hashes, _ = shared_prefixes(lambda step: LADDER[:, step], len(LADDER))
    seeds = [np.uint64(seed_of(model, "r", "/v1/completions")) for model in ("a", "b")]
    one, other = (templates_of(hashes, seed) for seed in seeds)
    assert one[0] == one[1] != one[2]
    assert one[3] == 0
    assert not set(one[one > 0].tolist()) & set(other.tolist())


def body(**fields: object) -> bytes:
    return json.dumps(fields).encode()


SYSTEM = {"role": "system", "content": "Answer with one word."}
QUESTION = {"role": "user", "content": "Is 7 prime?"}


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        (body(messages=[SYSTEM, QUESTION]), body(messages=[SYSTEM, {"role": "user", "content": "Why?"}]), True),
        (body(messages=[SYSTEM, QUESTION]), body(messages=[{**SYSTEM, "content": "Be long."}, QUESTION]), False),
        (body(messages=[QUESTION], response_format={"a": 1}), body(messages=[], response_format={"a": 1}), True),
        (body(messages=[QUESTION], response_format={"a": 1}), body(messages=[], response_format={"a": 2}), False),
        (body(instructions="x", input="1"), body(instructions="x", input=[{"role": "user"}]), True),
        (body(text={"format": {"a": 1}}, input="1"), body(text={"format": {"a": 2}}, input="1"), False),
    ],
)
def test_lines_without_a_long_prefix_go_by_their_instructions_and_schema(
    one: bytes, other: bytes, is_same: bool
) -> None:
    assert (template_of_body(one, 5) == template_of_body(other, 5)) is is_same
    assert template_of_body(one, 5) != 0


@pytest.mark.parametrize(
    "other",
    [body(messages=[QUESTION]), body(prompt="x"), b"", b"[1]", b'{"messages": 5}', b'{"messages": [5]}', b"\xff"],
)
def test_a_line_without_either_has_no_template(other: bytes) -> None:
    assert template_of_body(other, 5) == 0


KNOWN = {
    7: Known(mean_tokens=12.0, peak_tokens=20, prompt_scale=1.0, cached_share=0.9),
    9: Known(mean_tokens=0.2, peak_tokens=1, prompt_scale=1.0, cached_share=0.0),
}


def test_an_output_is_the_mean_of_its_template_at_most_its_limit() -> None:
    templates = np.array([7, 7, 7, 9, 8, 0], dtype=np.uint64)
    limits = np.array([100, 5, 0, 100, 100, 0])
    assert expected_outputs(templates, KNOWN, limits=limits).tolist() == [12, 5, 12, 1, 100, 0]
    assert expected_outputs(templates, {}, limits=limits).tolist() == limits.tolist()


def test_a_cached_prompt_is_little_work() -> None:
    work = expected_work(
        np.array([7, 8, 0], dtype=np.uint64),
        KNOWN,
        prompt_bytes=np.array([4000, 4000, 4000]),
        limits=np.array([12, 12, 0]),
        sub_requests=np.array([1, 2, 0]),
        output_tokens_assumed=50,
    )
    assert work.tolist() == [pytest.approx(1000 * 0.19 + 48), 1000 + 96, 1000 + 200]


@given(st.lists(st.floats(0.1, 1000), min_size=1, max_size=600))
def test_a_curve_rises_from_nothing_to_all_and_keeps_its_shape(work: list[float]) -> None:
    curve = curve_of(np.array(work))
    assert curve is not None
    assert (curve.done(0), curve.done(len(work))) == (0.0, pytest.approx(1.0))
    shares = [curve.done(lines) for lines in range(len(work) + 1)]
    assert shares == sorted(shares)
    middle = len(work) // 2
    assert curve.done(middle) == pytest.approx(sum(work[:middle]) / sum(work), abs=1000 / 256 / sum(work) * 3 + 0.02)


def test_where_long_lines_run_first_those_that_are_left_are_less_work() -> None:
    curve = curve_of(np.array([30.0] * 100 + [10.0] * 100))
    assert curve is not None
    assert curve.done(100) == pytest.approx(0.75)
    assert curve.rest_by_done(100) == pytest.approx(1 / 3)
    assert curve.rest_by_done(0) == curve.rest_by_done(200) == 1.0
    assert curve_of(np.array([])) is None
