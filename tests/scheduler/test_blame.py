"""A death is the engine's fault until a line was alone with it twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from scheduler.policy.blame import BlameLedger, Verdict


def test_the_first_death_sends_every_line_back_to_the_queue() -> None:
    assert BlameLedger[str]().died("abcd", isolated=False) == Verdict(requeue=("a", "b", "c", "d"))


def test_lines_of_two_deaths_run_in_halves_and_the_others_go_back() -> None:
    ledger = BlameLedger[str]()
    ledger.died("abcd", isolated=False)
    assert ledger.died("bcdxy", isolated=False) == Verdict(requeue=("x", "y"), groups=(("b", "c"), ("d",)))


def test_two_deaths_without_a_common_line_isolate_nobody() -> None:
    ledger = BlameLedger[str]()
    ledger.died("ab", isolated=False)
    assert ledger.died("cd", isolated=False) == Verdict(requeue=("c", "d"))


def test_a_group_that_kills_again_is_halved() -> None:
    ledger = BlameLedger[str]()
    assert ledger.died("abc", isolated=True) == Verdict(groups=(("a", "b"), ("c",)))


def test_a_line_is_blamed_only_after_two_deaths_with_it_alone() -> None:
    ledger = BlameLedger[str]()
    assert ledger.died("a", isolated=True) == Verdict(groups=(("a",),))
    assert ledger.died("a", isolated=True) == Verdict(blamed=("a",))
    assert ledger.alone_deaths("a") == 2


def test_one_death_alone_and_many_in_company_blame_nobody() -> None:
    ledger = BlameLedger[str]()
    assert ledger.died("a", isolated=True).blamed == ()
    for _ in range(10):
        assert ledger.died("ab", isolated=False).blamed == ()


def test_a_line_with_a_result_is_a_stranger_again() -> None:
    ledger = BlameLedger[str]()
    ledger.died("ab", isolated=False)
    ledger.finished("a")
    assert ledger.died("ab", isolated=False) == Verdict(requeue=("a",), groups=(("b",),))


@given(st.integers(1, 64), st.sets(st.integers(0, 63), max_size=3))
def test_exactly_the_poisonous_lines_are_blamed(lines: int, poison: set[int]) -> None:
    poison = {line for line in poison if line < lines}
    ledger = BlameLedger[int]()
    queue, groups = list(range(lines)), list[tuple[int, ...]]()
    blamed, done = set(), set()
    for _ in range(1000):
        isolated = bool(groups)
        running = list(groups.pop(0)) if isolated else queue
        if not running:
            break
        if not isolated:
            queue = []
        if not poison.isdisjoint(running):
            verdict = ledger.died(running, isolated=isolated)
            assert sorted([*verdict.requeue, *verdict.blamed, *(x for g in verdict.groups for x in g)]) == sorted(
                running
            )
            queue.extend(verdict.requeue)
            groups = [*verdict.groups, *groups]
            blamed.update(verdict.blamed)
        else:
            done.update(running)
    assert blamed == poison
    assert done == set(range(lines)) - poison
