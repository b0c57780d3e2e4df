"""How long answers turn out: quantiles by template, bounded and remembered."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.facts import lengths
from scheduler.facts.lengths import ANSWERS_MEMORY, ANSWERS_TOLD, TEMPLATES_MAX, Known, LengthBook, decode
from scheduler.policy.costs import peak_cost
from scheduler.policy.packer import Cost


def book_of(tokens: list[int], *, at_limit: bool = False, template: int = 7) -> LengthBook:
    book = LengthBook()
    for each in tokens:
        book.learn(template, "b", each, at_limit=at_limit, prompt_tokens=80, cached_tokens=60, estimated=100)
    return book


def known_of(book: LengthBook, template: int = 7) -> Known:
    known = book.known(template)
    assert known is not None
    return known


def test_a_few_answers_tell_nothing() -> None:
    assert book_of([5] * (ANSWERS_TOLD - 1)).known(7) is None
    assert known_of(book_of([5] * ANSWERS_TOLD)).peak_tokens == 5


@given(st.lists(st.integers(1, 4000), min_size=ANSWERS_TOLD, max_size=300))
def test_the_peak_is_no_shorter_than_nine_of_ten_answers_and_a_tenth_too_long_at_most(tokens: list[int]) -> None:
    book = LengthBook()
    for each in tokens[:-1]:
        book.learn(7, "b", each, at_limit=False)
    book.known(7)  # what is known now must not stand still afterwards
    for each in [tokens[-1]] * (len(tokens) // 5):
        book.learn(7, "b", each, at_limit=False)
    seen = sorted(tokens[:-1] + [tokens[-1]] * (len(tokens) // 5))
    exact = seen[math.ceil(0.9 * len(seen)) - 1]
    peak = known_of(book).peak_tokens
    assert peak is not None
    assert exact <= peak <= exact * 1.1 + 1


def test_answers_that_ended_at_their_limit_tell_of_no_peak() -> None:
    assert known_of(book_of([16] * 40, at_limit=True)).peak_tokens is None
    book = book_of([3] * 97)
    for _ in range(3):
        book.learn(7, "b", 16, at_limit=True)
    assert known_of(book).peak_tokens == 3


def test_prompts_are_measured_against_their_estimates() -> None:
    known = known_of(book_of([3] * 40))
    assert known.prompt_scale == pytest.approx(0.8)
    assert known.cached_share == pytest.approx(0.75)


def test_a_line_of_no_known_template_is_judged_by_its_batch() -> None:
    book = book_of([9] * 40, template=0)
    assert book.known(0, "b") is not None
    assert book.known(12345, "b") == book.known(0, "b")
    assert book.known(12345, "another") is None
    book.forget_batches(frozenset({"another"}))
    assert book.known(0, "b") is None


def test_what_changes_is_learnt_again() -> None:
    book = book_of([200] * ANSWERS_MEMORY)
    for _ in range(4 * ANSWERS_MEMORY):
        book.learn(7, "b", 10, at_limit=False)
    assert known_of(book).peak_tokens == 10


def test_a_million_templates_take_the_room_of_a_few_thousand() -> None:
    book = LengthBook()
    for template in range(1, 3 * TEMPLATES_MAX):
        book.learn(template, "b", 10, at_limit=False)
        book.learn(1, "b", 10, at_limit=False)
    assert len(book) == TEMPLATES_MAX
    assert book.known(1) is not None, "what is used stays"


def test_the_templates_that_were_used_last_survive_a_restart() -> None:
    book = LengthBook()
    for template in range(1, lengths.TEMPLATES_KEPT_MAX + 11):
        for _ in range(ANSWERS_TOLD):
            book.learn(template, "b", template, at_limit=False)
    again = decode(book.encode())
    assert len(again) == lengths.TEMPLATES_KEPT_MAX
    last = lengths.TEMPLATES_KEPT_MAX + 10
    assert again.known(last) == book.known(last)
    assert again.known(5) is None
    assert again.known(0, "b") is None, "batches begin anew"


KNOWN = Known(mean_tokens=6, peak_tokens=10, prompt_scale=0.5, cached_share=0.0)


@pytest.mark.parametrize(
    ("most", "known", "limit", "tokens"),
    [
        (Cost(1, 150, 100), None, 50, 150),
        (Cost(1, 150, 100), KNOWN, 50, 57 + 10),
        (Cost(1, 104, 100), KNOWN, 4, 57 + 4),
        (Cost(1, 105, 100), KNOWN, 50, 57 + 5),
        (Cost(1, 103, 100), KNOWN, 0, 57 + 10),
        (Cost(3, 250, 100), KNOWN, 50, 57 + 30),
        (Cost(1, 50, 0), Known(6, 0, 1.0, 0.0), 50, 1),
        (Cost(1, 150, 100), Known(6, None, 2.0, 0.0), 50, 150),
    ],
)
def test_a_line_costs_what_its_template_tells_and_never_more_than_it_may(
    most: Cost, known: Known | None, limit: int, tokens: int
) -> None:
    assert peak_cost(most, known, output_limit=limit).tokens == tokens


def test_a_shared_prefix_shrinks_with_its_prompt() -> None:
    cost = peak_cost(Cost(1, 150, 100, prefix=7, prefix_tokens=90), KNOWN, output_limit=50)
    assert (cost.prompt_tokens, cost.prefix_tokens, cost.tokens) == (100, 50, 67)
