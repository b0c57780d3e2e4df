"""Lines of other batches that go first because they begin as the last line did."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.protocol import CHAT_COMPLETIONS
from scheduler.actors.held import HeldShard, Line
from scheduler.actors.lane import Lane
from scheduler.policy.detours import LINES_PER_LINE, LINES_SAVED_MAX, Credit, Run, pays, runs_of
from scheduler.policy.packer import Cost
from scheduler.policy.planner import ModelKey
from store.records import Lease, ShardRecord, ShardState

MODEL = ModelKey("smol", "r1")
PREFIX_TOKENS = 1_000


def shard(batch_id: str, prefixes: list[int], *, shard_no: int = 0, own_tokens: int = 20) -> HeldShard:
    """One line for each number; lines of the same number begin alike, 0 is none."""
    lines = len(prefixes)
    record = ShardRecord(batch_id, shard_no, 0, lines, "smol", "r1", ShardState.LEASED, 1)
    made = HeldShard(batch_id, "t", CHAT_COMPLETIONS, Lease(record, "one", 1, 2.0**33, ()), MODEL, 0.0)
    for no, prefix in enumerate(prefixes):
        prompt = (PREFIX_TOKENS if prefix else 0) + own_tokens
        cost = Cost(1, prompt + 8, prompt, prefix, PREFIX_TOKENS if prefix else 0)
        made.waiting.append(Line(made, no, f"{batch_id}-{no}", b"{}", cost))
    made.runs = runs_of(line.cost for line in made.waiting)
    return made


def lane_of(*shards: HeldShard, hurried: tuple[str, ...] = ()) -> Lane:
    lane = Lane(MODEL)
    for one in shards:
        lane.add(one)
    lane.rank({one.batch_id: place for place, one in enumerate(shards)}, hurried)
    return lane


def drained(lane: Lane) -> list[str]:
    """Every line in the order in which it goes: batch and prefix."""
    gone = []
    while (line := lane.peek()) is not None:
        lane.take(line)
        gone.append(f"{line.shard.batch_id}{line.cost.prefix}")
    assert lane.waiting == 0
    return gone


def test_lines_of_all_batches_that_begin_alike_run_together() -> None:
    lane = lane_of(shard("a", [1, 1, 2, 2]), shard("b", [1, 2, 3]), shard("c", [2, 3, 1]))
    assert drained(lane) == ["a1", "a1", "b1", "c1", "a2", "a2", "b2", "c2", "b3", "c3"]


def test_lines_without_a_common_beginning_run_batch_by_batch() -> None:
    assert drained(lane_of(shard("a", [0, 1, 2]), shard("b", [0, 3, 4]))) == ["a0", "a1", "a2", "b0", "b3", "b4"]


def test_the_batch_in_front_lets_only_so_many_go_first() -> None:
    gone = drained(lane_of(shard("a", [1, 2, 3]), shard("b", [1] * 10)))
    assert gone == ["a1", *["b1"] * LINES_PER_LINE, "a2", "a3", *["b1"] * (10 - LINES_PER_LINE)]


def test_a_batch_whose_deadline_is_short_lets_nobody_go_first() -> None:
    lane = lane_of(shard("a", [1, 2]), shard("b", [1, 2]), hurried=("a",))
    assert drained(lane) == ["a1", "a2", "b1", "b2"]


def test_a_long_run_waits_for_its_turn_since_its_prefix_is_the_least_of_it() -> None:
    lane = lane_of(shard("a", [1, 2]), shard("b", [1] * 400))
    assert drained(lane)[:3] == ["a1", "a2", "b1"]


def test_what_one_batch_has_earned_is_not_paid_by_the_next() -> None:
    lane = lane_of(shard("a", [1] * 20), shard("b", [2, 3]), shard("c", [2] * 20))
    assert drained(lane)[20:25] == ["b2", "c2", "c2", "c2", "b3"]


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), min_size=1, max_size=5))
def test_every_line_goes_once_and_no_batch_waits_for_more_than_its_share_of_others(batches: list[list[int]]) -> None:
    gone = drained(lane_of(*(shard(chr(97 + no), prefixes) for no, prefixes in enumerate(batches))))
    expected = [f"{chr(97 + no)}{prefix}" for no, prefixes in enumerate(batches) for prefix in prefixes]
    assert sorted(gone) == sorted(expected)
    own = others = 0
    for line in gone:
        if line[0] == "a":
            assert others <= LINES_PER_LINE * own
            own += 1
        else:
            others += 1


def test_a_shard_that_is_blocked_or_gone_is_left_out() -> None:
    blocked, gone = shard("b", [1, 2]), shard("c", [1, 2])
    lane = lane_of(shard("a", [1, 2]), blocked, gone)
    blocked.blocked = True
    first = lane.peek()
    assert first is not None
    lane.take(first)
    lane.peek()
    lane.remove(gone)
    gone.waiting.clear()
    line = lane.peek()
    assert line is not None
    assert line.shard.batch_id == "a"


def test_a_line_that_comes_back_goes_again_first_of_its_shard() -> None:
    lane = lane_of(shard("a", [1, 1, 2]))
    line = lane.peek()
    assert line is not None
    lane.take(line)
    lane.put_back(line)
    assert lane.peek() is line


@pytest.mark.parametrize(
    ("lines", "prefix_tokens", "expected"),
    [(1, 1_000, True), (100, 1_000, True), (400, 1_000, False), (1, 0, False), (10, 65, True), (10, 64, False)],
)
def test_going_first_pays_while_the_prefix_is_a_good_part_of_the_work(
    lines: int, prefix_tokens: int, expected: bool
) -> None:
    assert pays(Run(lines, lines * 52.0, prefix_tokens), prefix_tokens) is expected


def test_runs_are_counted_by_prefix_and_without_it() -> None:
    costs = [Cost(1, 128, 120, 7, 100), Cost(1, 128, 120, 7, 100), Cost(1, 50, 42), Cost(1, 60, 52, 9, 0)]
    assert runs_of(costs) == {7: Run(2, 2 * (20 + 4 * 8), 100), 9: Run(1, 52 + 4 * 8, 0)}


def test_credit_has_an_end() -> None:
    credit = Credit()
    for _ in range(1_000):
        credit.earn("a")
    assert credit.of("a") == LINES_SAVED_MAX
    assert credit.of("b") == 0
