"""The order of batches: what may go ahead of what, and that no deadline pays for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.facts.capacity import Capacity
from scheduler.facts.windows import Calendar
from scheduler.facts.work import Job, ModelKey
from scheduler.policy.demand import Spare, pools, weigh
from scheduler.policy.ranking import Order, Queue, Turn, rank

HOUR = 3600.0
NOW = 1_000_000.0
CHAT = frozenset({ModelKey("chat", "r1")})
EMBED = frozenset({ModelKey("embed", "r1")})
ALWAYS = Capacity(Calendar(), now=NOW, until=NOW + 1000 * HOUR, peak_share=1.0)


def a_job(
    name: str,
    *,
    hours: float | None,
    due_in: float,
    left: float = 1.0,
    tenant: str = "t",
    weight: float = 1.0,
    waited: float = 0.0,
    models: frozenset[ModelKey] = CHAT,
) -> Job:
    """`hours` of work all together, of which the part `left` is left."""
    alone = None if hours is None else hours * HOUR
    work = None if alone is None else alone * left
    lines = 1000 if hours is None else max(1, int(hours * 1000))
    return Job(
        name, tenant, "24h", NOW - waited * HOUR, NOW + due_in * HOUR, int(lines * left), lines, work, alone, weight,
        models,
    )  # fmt: skip


def ranking(
    *jobs: Job, ahead: Mapping[str, float] | None = None, waiting: Sequence[str] = (), held: Sequence[str] = ()
) -> list[tuple[str, Turn]]:
    queue = Queue(jobs, NOW, ALWAYS, ahead or {}, frozenset(waiting), frozenset(held))
    return [(one.batch_id, one.turn) for one in rank(queue, Order())]


def test_a_small_batch_does_not_wait_for_a_large_one_that_has_time() -> None:
    found = ranking(a_job("million", hours=10, due_in=24), a_job("small", hours=0.1, due_in=168))
    assert found == [("small", Turn.SHORT), ("million", Turn.SHORT)]


def test_a_large_batch_whose_time_is_short_goes_before_a_small_one_that_has_time() -> None:
    found = ranking(a_job("large", hours=10, due_in=11), a_job("small", hours=0.1, due_in=168))
    assert [name for name, _ in found] == ["large", "small"]


def test_one_that_is_due_earlier_goes_ahead_of_everything_due_later_whatever_its_size() -> None:
    found = ranking(a_job("late", hours=1, due_in=2.0), a_job("soon", hours=1.5, due_in=1.6))
    assert [name for name, _ in found] == ["soon", "late"]


def test_what_is_nearly_done_goes_before_what_has_just_begun() -> None:
    found = ranking(a_job("new", hours=2, due_in=24), a_job("nearly", hours=3, due_in=24, left=0.1))
    assert [name for name, _ in found] == ["nearly", "new"]


def test_a_heavier_tier_goes_first_among_batches_like_each_other() -> None:
    found = ranking(a_job("light", hours=1, due_in=24), a_job("heavy", hours=1.5, due_in=24, weight=4.0))
    assert [name for name, _ in found] == ["heavy", "light"]


def test_one_that_has_waited_many_times_its_own_length_moves_up() -> None:
    fresh, old = a_job("fresh", hours=0.5, due_in=90), a_job("old", hours=1, due_in=90)
    assert [name for name, _ in ranking(fresh, old)] == ["fresh", "old"]
    assert [name for name, _ in ranking(fresh, replace(old, created_at=NOW - 40 * HOUR))] == ["old", "fresh"]


def test_one_that_waited_all_day_for_its_window_lets_a_far_smaller_one_of_the_evening_go_first() -> None:
    all_day, tiny = a_job("all day", hours=0.1, due_in=90, waited=12), a_job("tiny", hours=0.005, due_in=90)
    assert [name for name, _ in ranking(all_day, tiny)] == ["tiny", "all day"]


def test_without_a_measured_rate_fewer_lines_go_first() -> None:
    jobs = [a_job("many", hours=None, due_in=24), replace(a_job("few", hours=None, due_in=24), lines=10, lines_left=10)]
    assert [name for name, _ in ranking(*jobs)] == ["few", "many"]


def test_a_tenant_far_ahead_of_its_share_lets_the_others_go_first() -> None:
    jobs = [a_job("a1", hours=1, due_in=48, tenant="a"), a_job("b1", hours=5, due_in=48, tenant="b")]
    assert [name for name, _ in ranking(*jobs)] == ["a1", "b1"]
    assert ranking(*jobs, ahead={"a": 2 * HOUR, "b": -2 * HOUR}) == [("b1", Turn.SHORT), ("a1", Turn.FAIR)]


def test_a_small_batch_of_a_tenant_ahead_of_its_share_waits_for_large_ones_only_when_it_is_far_ahead() -> None:
    jobs = [a_job("a1", hours=0.1, due_in=48, tenant="a"), a_job("b1", hours=5, due_in=48, tenant="b")]
    assert ranking(*jobs, ahead={"a": 2 * HOUR, "b": -2 * HOUR}) == [("a1", Turn.FAIR), ("b1", Turn.SHORT)]
    assert ranking(*jobs, ahead={"a": 4 * HOUR, "b": -4 * HOUR}) == [("b1", Turn.SHORT), ("a1", Turn.FAIR)]


def test_a_tenant_ahead_of_its_share_still_keeps_its_deadlines() -> None:
    jobs = [a_job("a1", hours=1, due_in=1.2, tenant="a"), a_job("b1", hours=5, due_in=48, tenant="b")]
    assert [name for name, _ in ranking(*jobs, ahead={"a": 2 * HOUR})] == ["a1", "b1"]


def test_a_deadline_out_of_reach_breaks_no_other() -> None:
    found = ranking(a_job("hopeless", hours=20, due_in=5), a_job("fine", hours=4, due_in=6))
    assert found == [("fine", Turn.SHORT), ("hopeless", Turn.UNLIKELY)]


def test_one_that_may_be_hopeless_only_by_a_bad_estimate_is_not_given_up() -> None:
    assert ranking(a_job("close", hours=6, due_in=5), a_job("other", hours=1, due_in=50))[0] == ("close", Turn.DUE)


def test_those_that_must_not_run_come_last_and_nothing_makes_way_for_one_on_hold() -> None:
    jobs = [a_job("held", hours=4, due_in=4.1), a_job("waits", hours=1, due_in=20), a_job("runs", hours=2, due_in=30)]
    assert ranking(*jobs, waiting=["waits"], held=["held"]) == [
        ("runs", Turn.SHORT),
        ("waits", Turn.WAITS),
        ("held", Turn.WAITS),
    ]


def test_one_that_waits_for_its_window_keeps_its_claim_on_the_time_but_holds_nothing_up() -> None:
    jobs = [a_job("waits", hours=8, due_in=10), a_job("large", hours=4, due_in=14), a_job("small", hours=1, due_in=30)]
    assert ranking(*jobs, waiting=["waits"]) == [
        ("large", Turn.DUE),
        ("small", Turn.DUE),
        ("waits", Turn.WAITS),
    ], "with the work that waits there is no time for the small one before the large one"
    assert ranking(*jobs[1:]) == [("small", Turn.SHORT), ("large", Turn.SHORT)]


def test_batches_of_other_models_do_not_compete() -> None:
    chat, embed = a_job("chat", hours=9, due_in=9.5), a_job("embed", hours=9, due_in=9.5, models=EMBED)
    mixed = a_job("mixed", hours=1, due_in=50, models=CHAT | EMBED)
    assert sorted(len(pool) for pool in pools([chat, embed])) == [1, 1]
    assert len(pools([chat, embed, mixed])) == 1
    assert Turn.UNLIKELY not in dict(ranking(chat, embed)).values()


def test_a_place_says_its_slack_its_share_and_what_is_left_to_spare() -> None:
    jobs = [a_job("a", hours=2, due_in=10, tenant="a"), a_job("b", hours=3, due_in=20, tenant="b")]
    first, second = rank(Queue(jobs, NOW, ALWAYS), Order(tenant_weights={"a": 3.0}))
    assert (first.place, first.slack_seconds, first.spare_seconds, first.share) == (0, 8 * HOUR, 8 * HOUR, 0.75)
    assert (second.place, second.slack_seconds, second.spare_seconds, second.share) == (1, 17 * HOUR, 15 * HOUR, 0.25)


many_jobs = st.lists(
    st.tuples(st.floats(0.01, 20), st.floats(0.1, 200), st.sampled_from("abc"), st.floats(0.01, 1)),
    min_size=1,
    max_size=12,
)


def jobs_of(drawn: list[tuple[float, float, str, float]]) -> list[Job]:
    return [
        a_job(f"b{no}", hours=hours, due_in=due, tenant=tenant, left=left)
        for no, (hours, due, tenant, left) in enumerate(drawn)
    ]


@given(many_jobs, st.dictionaries(st.sampled_from("abc"), st.floats(-9000, 9000)))
def test_no_deadline_is_missed_for_the_sake_of_the_order(
    drawn: list[tuple[float, float, str, float]], ahead: dict[str, float]
) -> None:
    """Where earliest deadline first misses none, this order run to the end misses none either."""
    jobs = jobs_of(drawn)
    feasible = Spare(sorted(jobs, key=lambda job: job.due_at), ALWAYS.seconds, margin=1.0).from_(NOW) >= 0
    order = rank(Queue(jobs, NOW, ALWAYS, ahead), Order())
    assert sorted(one.batch_id for one in order) == sorted(job.batch_id for job in jobs)
    if feasible:
        by_name, at = {job.batch_id: job for job in jobs}, NOW
        for one in order:
            at += by_name[one.batch_id].work_known
            assert at <= by_name[one.batch_id].due_at + 1e-3


@given(many_jobs, st.floats(0.2, 5))
def test_a_tenant_whose_work_fits_into_its_share_is_never_given_up(
    drawn: list[tuple[float, float, str, float]], weight: float
) -> None:
    jobs, weights = jobs_of(drawn), {"a": weight}
    share = weight / (weight + 2.0)
    own = sorted((job for job in jobs if job.tenant == "a"), key=lambda job: job.due_at)
    fits = Spare(own, lambda until: share * ALWAYS.seconds(until), margin=1.0).from_(NOW) >= 0
    lost = weigh(jobs, ALWAYS.seconds, tenant_weights=weights, optimism=1.0).given_up
    if fits:
        assert not [job for job in lost if job.tenant == "a"]


@given(many_jobs)
def test_what_is_kept_fits_together(drawn: list[tuple[float, float, str, float]]) -> None:
    kept = weigh(jobs_of(drawn), ALWAYS.seconds, tenant_weights={}, optimism=1.0).kept
    assert not kept or Spare(kept, ALWAYS.seconds, margin=1.0).from_(NOW) >= -1e-3


@pytest.mark.parametrize("count", [3_000])
def test_thousands_of_batches_are_ranked_within_a_tick(count: int) -> None:
    """As an order of magnitude: what grows with the square of the queue would take minutes."""
    jobs = [a_job(f"b{no}", hours=0.01 + no % 7, due_in=1 + no % 900, tenant=f"t{no % 5}") for no in range(count)]
    assert len(rank(Queue(jobs, NOW, ALWAYS), Order())) == count
