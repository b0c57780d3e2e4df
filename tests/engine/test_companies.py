"""Which engines meet on a device: the largest sets of which no two are apart."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.companies import companies


def test_without_turns_all_are_one_company() -> None:
    assert companies(["a", "b", "c"], {}) == [("a", "b", "c")]


def test_night_and_day_meet_only_what_is_always_there() -> None:
    assert companies(["night", "both", "day"], {"night": frozenset({"day"})}) == [("night", "both"), ("both", "day")]


def test_one_of_each_turn_group_is_there() -> None:
    apart = {"a": frozenset({"b"}), "c": frozenset({"d"})}
    assert companies(["a", "b", "c", "d"], apart) == [("a", "c"), ("a", "d"), ("b", "c"), ("b", "d")]


def test_too_many_ways_are_refused() -> None:
    engines = [f"e{number}" for number in range(24)]
    apart = {engines[number]: frozenset({engines[number + 1]}) for number in range(0, 24, 2)}
    with pytest.raises(ValueError, match="fewer turn groups"):
        companies(engines, apart)


@settings(deadline=None)  # a busy machine
@given(pairs=st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7)).filter(lambda pair: pair[0] < pair[1])))
def test_every_engine_and_every_pair_that_may_meet_is_in_a_company(pairs: set[tuple[int, int]]) -> None:
    engines = [str(number) for number in range(8)]
    apart = {str(one): frozenset(str(right) for left, right in pairs if left == one) for one in range(8)}
    found = companies(engines, apart)
    for one, other in combinations(range(8), 2):
        together = any({str(one), str(other)} <= set(company) for company in found)
        assert together is ((one, other) not in pairs)
    assert {engine for company in found for engine in company} == set(engines)
