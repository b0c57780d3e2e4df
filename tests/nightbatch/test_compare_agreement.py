"""The figures of agreement, against their definitions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightbatch.inspection.results.agreement import (
    LABELS_MAX,
    QUANTILES,
    Labels,
    Samples,
    cosine,
    equal,
    label_of,
    leaves,
    normal,
    wilson,
    word_overlap,
)

json_values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.sampled_from([0.0, 1.0, 2.5]), st.text(max_size=3)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=2), inner, max_size=3)),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("same", "of", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (20, 20, 0.8389, 1.0),
        (0, 0, 0.0, 1.0),
    ],
)
def test_the_interval_is_wilsons(same: int, of: int, low: float, high: float) -> None:
    """The first two are worked examples of Newcombe (1998), method 3."""
    assert wilson(same, of) == pytest.approx((low, high), abs=5e-5)


@given(of=st.integers(1, 10_000), data=st.data())
def test_the_interval_holds_the_share(of: int, data: st.DataObject) -> None:
    same = data.draw(st.integers(0, of))
    low, high = wilson(same, of)
    assert 0 <= low <= same / of <= high <= 1
    assert wilson(of - same, of) == pytest.approx((1 - high, 1 - low))


def test_kappa_is_cohens() -> None:
    """Cohen's (1960) kind of table: 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no gives 0.4."""
    labels = Labels()
    for ours, theirs, count in (("yes", "yes", 20), ("yes", "no", 5), ("no", "yes", 10), ("no", "no", 15)):
        for _ in range(count):
            labels.add(ours, theirs)
    assert labels.kappa == pytest.approx(0.4)
    assert labels.confusions(1) == [("no", "yes", 10)]
    assert labels.enum_like


def test_labels_without_any_choice_have_no_kappa() -> None:
    labels = Labels()
    assert labels.kappa is None
    for _ in range(10):
        labels.add("same", "same")
    assert labels.kappa is None
    assert not labels.enum_like


def test_text_is_no_label_and_costs_no_memory() -> None:
    labels = Labels()
    for number in range(3 * LABELS_MAX):
        labels.add(f"answer {number}", "x")
    assert labels.free_text
    assert not labels.pairs
    assert label_of("a long text " * 20) is None
    assert label_of("two\nlines") is None
    values: list[Any] = [None, True, 3, 2.5, [], {}]
    assert [label_of(value) for value in values] == ["null", "true", "3", None, None, None]


@given(pairs=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1))
def test_kappa_is_symmetric_and_at_most_one(pairs: list[tuple[str, str]]) -> None:
    one, other = Labels(), Labels()
    for ours, theirs in pairs:
        one.add(ours, theirs)
        other.add(theirs, ours)
    if one.kappa is None:
        assert other.kappa is None
    else:
        assert one.kappa == pytest.approx(other.kappa)
        assert one.kappa <= 1 + 1e-9


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        (1, 1.0, True),
        (1, True, False),
        (0, False, False),
        ({"a": [1, {"b": None}]}, {"a": [1, {"b": None}]}, True),
        ([1, 2], [2, 1], False),
        ({"a": 1}, {"a": 1, "b": None}, False),
        ("1", 1, False),
        ([True], [1], False),
    ],
)
def test_json_values_are_equal_as_json(ours: Any, theirs: Any, same: bool) -> None:
    assert equal(ours, theirs) is same
    assert equal(theirs, ours) is same


@given(value=json_values)
def test_a_value_equals_itself_and_its_leaves_lose_nothing(value: Any) -> None:
    assert equal(value, value)
    for path, leaf in leaves(value).items():
        assert path is not None
        assert not isinstance(leaf, dict) or not leaf or path.count(".") >= 7


def test_leaves_have_dotted_paths() -> None:
    found = leaves({"a": {"b": 1, "c": {"d": [1, {"e": 2}]}}, "f": None, "g": {}})
    assert found == {"a.b": 1, "a.c.d": [1, {"e": 2}], "f": None, "g": {}}


@given(left=st.text(), right=st.text())
def test_overlap_is_symmetric_and_complete_for_the_same_words(left: str, right: str) -> None:
    assert word_overlap(left, right) == pytest.approx(word_overlap(right, left))
    assert word_overlap(left, left) == 1.0
    assert normal(normal(left)) == normal(left) or not left.isascii()


def test_cosines() -> None:
    assert cosine(np.array([1.0, 0.0]), np.array([1.0, 0.0])) == pytest.approx(1)
    assert cosine(np.array([1.0, 0.0]), np.array([-2.0, 0.0])) == pytest.approx(-1)
    assert cosine(np.array([1.0, 0.0]), np.array([1.0])) is None
    assert cosine(np.zeros(2), np.ones(2)) is None
    assert cosine(np.array([math.nan, 1]), np.ones(2)) is None


def test_ratios_need_both_sides() -> None:
    samples = Samples()
    assert len(samples.quantiles) == 0
    for ours, theirs in ((1, 0), (0, 1), (2, 1), (1, 2), (3, 3)):
        samples.add_ratio(ours, theirs)
    assert samples.quantiles[len(QUANTILES) // 2] == 1.0
