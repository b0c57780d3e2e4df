"""Who waits for whose answer: whatever happens, a line is in one place and ends once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from scheduler.actors.held import HeldShard, Line
from scheduler.actors.twins import APART_MAX, ENTRY_BYTES, Twins
from scheduler.policy.packer import Cost
from scheduler.policy.planner import ModelKey
from store.records import KeptAnswer, Lease, ShardRecord, ShardState

ROOM = 10 * (ENTRY_BYTES + 2)


def a_shard(number: int = 0) -> HeldShard:
    record = ShardRecord("b", number, 0, 8, "m", "r", ShardState.LEASED, generation=1)
    return HeldShard("b", "t", "/v1/x", Lease(record, "h", 1, 0.0, ()), ModelKey("m", "r"), 0.0)


def a_line(shard: HeldShard, line_no: int, key: bytes | None) -> Line:
    return Line(shard, line_no, f"row-{line_no}", b"{}", Cost(1, 1), reuse_key=key)


def an_answer(key: bytes) -> KeptAnswer:
    return KeptAnswer(key, 200, b"{}")


def test_lines_without_a_key_pass_through() -> None:
    twins, shard = Twins(answer_bytes_max=ROOM), a_shard()
    one, other = a_line(shard, 0, None), a_line(shard, 1, None)
    twins.departed(one)
    assert (twins.answer(other), twins.park(other)) == (None, False)
    assert (twins.landed(one), twins.failed(one)) == ([], [])


def test_twins_of_a_line_in_flight_wait_and_others_do_not() -> None:
    twins, shard = Twins(answer_bytes_max=ROOM), a_shard()
    first, twin, other = a_line(shard, 0, b"k"), a_line(shard, 1, b"k"), a_line(shard, 2, b"l")
    twins.departed(first)
    assert [twins.park(line) for line in (twin, other, first)] == [True, False, False]
    assert twins.answered(an_answer(b"k")) == [twin]
    assert twins.answer(a_line(shard, 3, b"k")) == an_answer(b"k")


def test_when_a_line_comes_back_without_a_result_another_may_go() -> None:
    twins, shard = Twins(answer_bytes_max=ROOM), a_shard()
    first, twin = a_line(shard, 0, b"k"), a_line(shard, 1, b"k")
    twins.departed(first)
    twins.park(twin)
    assert twins.landed(twin) == []
    assert twins.landed(first) == [twin]
    assert not twins.park(twin)
    twins.departed(twin)
    assert twins.park(first)


def test_after_an_error_twins_run_side_by_side_until_one_has_an_answer() -> None:
    twins, shard = Twins(answer_bytes_max=ROOM), a_shard()
    lines = [a_line(shard, number, b"k") for number in range(4)]
    twins.departed(lines[0])
    assert twins.park(lines[1])
    assert twins.failed(lines[0]) == [lines[1]]
    for line in lines[1:3]:
        assert not twins.park(line)
        twins.departed(line)
    assert twins.answered(an_answer(b"k")) == []
    assert twins.answer(lines[3]) == an_answer(b"k")


def test_when_a_shard_goes_those_that_waited_for_its_lines_are_free() -> None:
    twins, here, there = Twins(answer_bytes_max=ROOM), a_shard(0), a_shard(1)
    first, twin, other = a_line(here, 0, b"k"), a_line(there, 1, b"k"), a_line(there, 2, b"l")
    for line in (first, other):
        twins.departed(line)
    twins.park(twin)
    assert twins.removed(here) == [twin]
    assert twins.landed(first) == []
    assert twins.landed(other) == []


def test_the_oldest_answers_make_way() -> None:
    twins, shard = Twins(answer_bytes_max=ROOM), a_shard()
    keys = [b"%d" % number for number in range(25)]
    for key in keys:
        twins.answered(an_answer(key))
    found = [key for number, key in enumerate(keys) if twins.answer(a_line(shard, number, key))]
    assert found == keys[-10:]


def test_questions_that_got_an_error_are_remembered_within_a_limit() -> None:
    twins, shard = Twins(answer_bytes_max=ROOM), a_shard()
    for number in range(APART_MAX + 1):
        twins.failed(a_line(shard, number, b"%d" % number))
    for number, may_wait in ((0, True), (1, False), (APART_MAX, False)):
        key = b"%d" % number
        twins.departed(a_line(shard, 1, key))
        assert twins.park(a_line(shard, 2, key)) is may_wait


class Play:
    """Lines of three shards and four questions, moved as a dispatcher moves them."""

    def __init__(self) -> None:
        self.twins = Twins(answer_bytes_max=ROOM)
        self.shards = [a_shard(number) for number in range(3)]
        self.lines = [a_line(self.shards[number % 3], number, b"%d" % (number % 4)) for number in range(14)]
        self.waiting = list(self.lines)
        self.flying: list[Line] = []
        self.ended: list[Line] = []

    def take(self) -> None:
        line = self.waiting.pop(0)
        if self.twins.answer(line) is not None:
            self.ended.append(line)
        elif not self.twins.park(line):
            self.twins.departed(line)
            self.flying.append(line)

    def answer(self) -> None:
        line = self.flying.pop(0)
        self.ended.append(line)
        self.ended += self._wanted(self.twins.answered(an_answer(line.reuse_key or b"")))

    def fail(self) -> None:
        line = self.flying.pop(0)
        self.ended.append(line)
        self.waiting += self._wanted(self.twins.failed(line))

    def land(self) -> None:
        line = self.flying.pop(0)
        self.waiting += [*self._wanted(self.twins.landed(line)), line]

    def remove(self, shard: HeldShard) -> None:
        shard.leaving = True
        self.waiting = self._wanted(self.waiting + self.twins.removed(shard))
        self.flying = self._wanted(self.flying)
        self.ended = self._wanted(self.ended)

    def check(self) -> None:
        seen = [line.line_no for line in [*self.waiting, *self.flying, *self.ended]]
        assert len(set(seen)) == len(seen)

    def _wanted(self, lines: list[Line]) -> list[Line]:
        return [line for line in lines if not line.is_gone]


@given(st.data())
def test_whatever_happens_every_line_ends_once(data: st.DataObject) -> None:
    play = Play()
    for _ in range(data.draw(st.integers(0, 60))):
        moves = [
            "remove",
            *(["take"] * 4 if play.waiting else []),
            *(["answer", "fail", "land"] if play.flying else []),
        ]
        move = data.draw(st.sampled_from(moves))
        if move == "remove":
            play.remove(data.draw(st.sampled_from(play.shards)))
        else:
            getattr(play, move)()
        play.check()
    while play.waiting or play.flying:
        if play.flying:
            play.answer()
        else:
            play.take()
        play.check()
    assert sorted(line.line_no for line in play.ended) == [line.line_no for line in play.lines if not line.is_gone]
