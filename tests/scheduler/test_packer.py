"""What fits on an engine: sub-requests and KV tokens, and a giant only alone."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.protocol import EngineLimits
from scheduler.facts.estimates import LineSize, RateMeter, kv_tokens
from scheduler.policy.packer import Budget, Cost, Inflight, budget_of, fits, slice_size

BUDGET = Budget(requests_max=4, tokens_max=100)


@pytest.mark.parametrize(
    ("inflight", "cost", "expected"),
    [
        (Inflight(1, 3, 10), Cost(1, 90), True),
        (Inflight(1, 4, 10), Cost(1, 1), False),
        (Inflight(1, 1, 10), Cost(1, 91), False),
        (Inflight(0, 0, 0), Cost(900, 900_000), True),
        (Inflight(1, 1, 1), Cost(900, 900_000), False),
        (Inflight(1, 1, 1), Cost(4, 1), False),
    ],
)
def test_a_line_fits_by_both_counts_and_a_giant_only_alone(inflight: Inflight, cost: Cost, expected: bool) -> None:
    assert fits(BUDGET, inflight, cost) is expected


def test_an_engine_without_a_token_limit_counts_requests_only() -> None:
    budget = budget_of(EngineLimits(8), requests_multiple=1.0, tokens_multiple=1.0)
    assert fits(budget, Inflight(7, 7, 10**9), Cost(1, 10**9))
    assert not fits(budget, Inflight(8, 8, 0), Cost(1, 1))


@given(st.lists(st.tuples(st.integers(1, 8), st.integers(1, 200)), min_size=1, max_size=60), st.randoms())
def test_whatever_ends_first_the_budget_holds_and_nothing_waits_forever(costs, chance) -> None:  # type: ignore[no-untyped-def]
    waiting = [Cost(*cost) for cost in costs]
    running: list[Cost] = []
    inflight = Inflight()
    while waiting or running:
        while waiting and fits(BUDGET, inflight, waiting[0]):
            running.append(waiting.pop(0))
            inflight.take(running[-1])
        assert inflight.lines == 1 or (inflight.requests <= 4 and inflight.tokens <= 100)
        inflight.give_back(running.pop(chance.randrange(len(running))))
    assert inflight == Inflight()


shared_costs = st.builds(
    lambda own, prefix, tokens: Cost(1, own + tokens, tokens, prefix, tokens),
    st.integers(1, 60),
    st.integers(1, 3),
    st.integers(0, 60),
)


@given(st.lists(shared_costs, min_size=1, max_size=40), st.booleans(), st.randoms())
def test_a_prefix_that_lines_in_flight_share_is_counted_once(
    costs: list[Cost], is_agreed: bool, chance: Random
) -> None:
    inflight, running = Inflight(), list[Cost]()
    if is_agreed:  # as it is but for estimates that were made at different times
        costs = [Cost(1, cost.requests + 20 * cost.prefix, 1, cost.prefix, 20 * cost.prefix) for cost in costs]
    for cost in costs:
        inflight.take(cost)
        running.append(cost)
        if chance.random() < 0.4:
            inflight.give_back(running.pop(chance.randrange(len(running))))
        own = sum(cost.tokens - cost.prefix_tokens for cost in running)
        assert inflight.tokens >= own
        if is_agreed:
            assert inflight.tokens == own + sum(20 * prefix for prefix in {cost.prefix for cost in running})
    for cost in running:
        inflight.give_back(cost)
    assert inflight == Inflight()


def test_lines_of_one_prefix_fit_where_strangers_would_not() -> None:
    inflight = Inflight()
    for _ in range(3):
        assert fits(BUDGET, inflight, Cost(1, 60, 50, 7, 50))
        inflight.take(Cost(1, 60, 50, 7, 50))
    assert inflight.tokens == 80
    assert not fits(BUDGET, inflight, Cost(1, 60, 50, 8, 50))


@pytest.mark.parametrize(
    ("size", "context", "expected"),
    [
        (LineSize(300, 50, 1), None, 150),
        (LineSize(301, 50, 1), None, 151),
        (LineSize(300, 0, 1), None, 356),
        (LineSize(300, 50, 4), None, 300),
        (LineSize(9_000, 50, 1), 2048, 2048),
        (LineSize(27_000, 50, 3), 2048, 6144),
        (LineSize(0, 0, 0), None, 256),
    ],
)
def test_kv_tokens_are_prompt_plus_outputs_capped_by_the_context(
    size: LineSize, context: int | None, expected: int
) -> None:
    assert kv_tokens(size, bytes_per_token=3.0, output_tokens_assumed=256, context_tokens_max=context) == expected


def test_a_rate_follows_what_is_measured_and_forgets_slowly() -> None:
    meter = RateMeter(memory_seconds=10)
    assert meter.seconds_per_line == 0.0
    for _ in range(10):
        meter.add(lines=10, busy_seconds=1.0)
    assert meter.seconds_per_line == pytest.approx(0.1)
    for _ in range(100):
        meter.add(lines=1, busy_seconds=1.0)
    assert meter.seconds_per_line == pytest.approx(1.0, rel=0.01)
    meter.add(lines=0, busy_seconds=0.0)
    assert meter.seconds_per_line == pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        (Cost(1, 1), 1),
        (Cost(40, 1_000), 40),
        (Cost(64, 1_000), 64),
        (Cost(65, 100), 64),
        (Cost(65, 1_000), 15),
        (Cost(2_000, 1_000), 64),
        (Cost(40, 1_001), 9),
        (Cost(2, 100_000), 1),
        (Cost(1, 100_000), 1),
    ],
)
def test_a_line_is_sliced_when_it_is_over_the_limit_or_the_budget(cost: Cost, expected: int) -> None:
    assert slice_size(Budget(requests_max=400, tokens_max=1_000), cost, sub_requests_max=64) == expected


@given(
    st.integers(1, 500), st.none() | st.integers(1, 5_000), st.integers(1, 5_000), st.integers(1, 9_999), st.integers(1)
)
def test_slices_of_several_fit_the_budget_together(
    requests_max: int, tokens_max: int | None, requests: int, tokens: int, limit: int
) -> None:
    budget, cost = Budget(requests_max, tokens_max), Cost(requests, tokens)
    size = slice_size(budget, cost, sub_requests_max=limit)
    assert 1 <= size <= requests
    if size < requests:
        assert size <= limit
        assert size == 1 or size * 4 <= requests_max
        assert tokens_max is None or size == 1 or size * tokens / requests * 4 <= tokens_max
    elif requests > 1:
        assert requests <= limit
        assert requests <= requests_max
