"""What each tenant has had of the engines, and what a batch's lines cost."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.facts.rates import ModelRate
from scheduler.facts.sizes import LineSizes, expected_tokens
from scheduler.facts.work import ModelKey
from scheduler.policy.fairness import KEPT_SECONDS_MAX, Accounts
from store.records import BatchRecord, RequestCounts, TokenUsage
from tests.scheduler.test_planner import a_batch


def settle(accounts: Accounts, served: dict[str, float], able: str, present: str | None = None) -> dict[str, float]:
    accounts.settle(served, able=set(able), present=set(present or able), weights={"w": 3.0})
    return accounts.ahead


def test_a_tenant_is_ahead_by_what_it_has_had_beyond_its_share() -> None:
    accounts = Accounts()
    assert settle(accounts, {"a": 60.0}, "ab") == {"a": 30.0, "b": -30.0}
    assert settle(accounts, {"b": 60.0}, "ab") == {"a": 0.0, "b": 0.0}


def test_a_heavier_tenant_has_a_larger_share() -> None:
    assert settle(Accounts(), {"a": 60.0}, "aw") == {"a": 45.0, "w": -45.0}


def test_alone_nobody_is_ahead() -> None:
    assert settle(Accounts(), {"a": 600.0}, "a") == {"a": 0.0}


def test_who_only_waits_for_a_window_neither_gains_nor_loses() -> None:
    assert settle(Accounts(), {"a": 60.0}, "a", present="ab") == {"a": 0.0}


def test_who_has_nothing_left_is_forgotten_and_the_rest_is_even_again() -> None:
    accounts = Accounts()
    settle(accounts, {"a": 60.0}, "ab")
    assert settle(accounts, {"a": 10.0}, "a") == {"a": 0.0}


@given(st.lists(st.dictionaries(st.sampled_from("abw"), st.floats(0, 500)), max_size=40))
def test_all_together_are_even_and_nobody_is_further_off_than_the_limit(rounds: list[dict[str, float]]) -> None:
    accounts = Accounts()
    for served in rounds:
        settle(accounts, served, "abw")
    assert abs(sum(accounts.ahead.values())) < 1e-3 * max(1, len(rounds))
    assert all(abs(seconds) <= 2 * KEPT_SECONDS_MAX for seconds in accounts.ahead.values())


def seen(rate: ModelRate, lines: int, seconds: float, *, peak: bool = False, full: bool = True) -> None:
    rate.add(lines=lines, busy_seconds=seconds, is_peak=peak, is_full=full)


def test_a_rate_is_that_outside_peak_hours_and_says_what_is_left_of_it_inside() -> None:
    rate = ModelRate()
    assert (rate.seconds_per_line, rate.peak_share) == (0.0, 0.5)
    seen(rate, 100, 10.0)
    assert (rate.seconds_per_line, rate.peak_share) == (pytest.approx(0.1), 0.5)
    seen(rate, 25, 10.0, peak=True)
    assert (rate.seconds_per_line, rate.peak_share) == (pytest.approx(0.1), pytest.approx(0.25))


def test_a_rate_known_in_peak_hours_only_stands_for_both() -> None:
    rate = ModelRate()
    seen(rate, 25, 10.0, peak=True)
    assert (rate.seconds_per_line, rate.peak_share) == (pytest.approx(0.4), 1.0)


def test_few_lines_in_flight_tell_little_and_are_dropped_once_the_engines_were_full() -> None:
    rate = ModelRate()
    seen(rate, 1, 5.0, full=False)
    assert rate.seconds_per_line == pytest.approx(5.0)
    seen(rate, 100, 10.0)
    seen(rate, 1, 50.0, full=False)
    assert rate.seconds_per_line == pytest.approx(0.1)


def at(batch: BatchRecord, lines: int, *, tokens_each: int) -> BatchRecord:
    counts, usage = replace(batch.counts, completed=lines), TokenUsage(tokens_each * lines, 0, 0)
    return replace(batch, counts=counts, usage=usage)


def test_a_line_costs_what_the_lines_of_its_batch_have_cost_beside_the_mean() -> None:
    sizes, short, long = LineSizes(), a_batch("short"), a_batch("long")
    for lines in (0, 300):
        sizes.see(at(short, lines, tokens_each=100))
        sizes.see(at(long, lines, tokens_each=900))
    assert sizes.relative(at(short, 300, tokens_each=100)) == pytest.approx(0.2, rel=0.05)
    assert sizes.relative(at(long, 300, tokens_each=900)) == pytest.approx(1.8, rel=0.05)


def test_before_it_has_run_a_batch_is_judged_by_its_index() -> None:
    sizes, known = LineSizes(), a_batch("known")
    sizes.expect("known", expected_tokens(prompt_bytes=400, output_tokens=25))
    sizes.expect("new", expected_tokens(prompt_bytes=800, output_tokens=50))
    sizes.see(known)
    assert sizes.see(at(known, 300, tokens_each=77)) == 300
    assert sizes.relative(a_batch("new")) == pytest.approx(2.0)
    assert sizes.relative_of(ModelKey("chat", "r1"), 400.0) == pytest.approx(2.0)
    assert sizes.relative(a_batch("nothing known")) == 1.0


def test_broken_lines_and_a_first_look_tell_nothing_of_a_size() -> None:
    sizes = LineSizes()
    broken = replace(a_batch("a"), counts=RequestCounts(100, 0, 40), invalid_lines=40)
    assert (sizes.see(broken), sizes.see(broken)) == (0, 0)
    assert sizes.see(replace(broken, counts=RequestCounts(100, 5, 41))) == 6
