"""What to lease and whom to pause, as tables over plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from scheduler.policy.planner import EngineView, HeldView, Limits, ModelKey, Pause, Snapshot, plan
from store.records import (
    BatchRecord,
    BatchStatus,
    OnDeadline,
    PinnedModel,
    RequestCounts,
    ShardRecord,
    ShardState,
)

CHAT = ModelKey("chat", "r1")
EMBED = ModelKey("embed", "r1")
LIMITS = Limits(shards_open_max=8, waiting_multiple=2.0, waiting_lines_min=100)
NOW = 1_000.0


def a_batch(name: str, *, expires_at: int = 10_000, lines: int = 1000, paused: str | None = None) -> BatchRecord:
    return BatchRecord(
        id=name,
        tenant="t",
        endpoint="/v1/chat/completions",
        input_file_id="file-1",
        completion_window="24h",
        status=BatchStatus.IN_PROGRESS,
        created_at=0,
        expires_at=expires_at,
        on_deadline=OnDeadline.EXPIRE,
        models={"m": PinnedModel("chat", "r1")},
        counts=RequestCounts(lines, 0, 0),
        paused_at=None if paused is None else 5,
        pause_reason=paused,
    )


def shards_of(name: str, count: int, *, key: ModelKey = CHAT, lines: int = 50) -> list[ShardRecord]:
    return [
        ShardRecord(name, no, no * lines, (no + 1) * lines, key.id, key.revision, ShardState.READY)
        for no in range(count)
    ]


def an_engine(name: str = "e", *, serves: Sequence[ModelKey] = (CHAT,), inflight: int = 10) -> EngineView:
    return EngineView(name, frozenset(serves), inflight)


def snapshot(
    batches: Sequence[BatchRecord],
    shards: Sequence[ShardRecord],
    *,
    held: Sequence[HeldView] = (),
    engines: Sequence[EngineView] = (an_engine(),),
    outages: Mapping[ModelKey, str] | None = None,
    disk: str | None = None,
    rates: Mapping[ModelKey, float] | None = None,
) -> Snapshot:
    return Snapshot(NOW, batches, shards, held, engines, outages or {}, disk, rates or {})


def leased(snap: Snapshot, limits: Limits = LIMITS) -> list[tuple[str, int]]:
    return [(shard.batch_id, shard.shard_no) for shard in plan(snap, limits).leases]


def test_shards_are_leased_until_enough_lines_wait() -> None:
    assert leased(snapshot([a_batch("a")], shards_of("a", 9))) == [("a", 0), ("a", 1)]


def test_a_fast_model_has_more_lines_waiting() -> None:
    snap = snapshot([a_batch("a")], shards_of("a", 9), rates={CHAT: 0.005})
    assert leased(snap) == [("a", no) for no in range(4)]


def test_lines_that_wait_already_count() -> None:
    held = [HeldView("a", 0, CHAT, waiting=60)]
    assert leased(snapshot([a_batch("a")], shards_of("a", 9), held=held)) == [("a", 1)]


def test_least_slack_goes_first() -> None:
    batches = [a_batch("late", expires_at=9_000), a_batch("soon", expires_at=2_000)]
    found = plan(snapshot(batches, shards_of("late", 3) + shards_of("soon", 1)), LIMITS)
    assert found.ranking == ("soon", "late")
    assert [(s.batch_id, s.shard_no) for s in found.leases] == [("soon", 0), ("late", 0)]


def test_a_small_batch_does_not_wait_for_a_large_one_that_is_due_earlier_as_long_as_that_has_time() -> None:
    batches = [a_batch("long", expires_at=9_000, lines=50_000), a_batch("short", expires_at=20_000, lines=1_000)]
    snap = snapshot(batches, [])
    assert plan(replace(snap, seconds_per_line={CHAT: 0.1}), LIMITS).ranking == ("short", "long")
    assert plan(replace(snap, seconds_per_line={CHAT: 0.15}), LIMITS).ranking == ("long", "short")


def test_a_more_urgent_batch_is_leased_although_others_wait() -> None:
    held = [HeldView("late", no, CHAT, waiting=50) for no in range(4)]
    batches = [a_batch("late", expires_at=9_000), a_batch("soon", expires_at=2_000)]
    snap = snapshot(batches, shards_of("late", 9) + shards_of("soon", 9), held=held)
    assert leased(snap) == [("soon", 0), ("soon", 1)]


def test_never_more_open_shards_than_the_limit_per_engine() -> None:
    held = [HeldView("a", no, CHAT, waiting=0) for no in range(7)]
    assert leased(snapshot([a_batch("a")], shards_of("a", 20, lines=5), held=held)) == [("a", 7)]


def test_every_engine_brings_room_of_its_own() -> None:
    engines = [an_engine("e1"), an_engine("e2")]
    assert len(leased(snapshot([a_batch("a")], shards_of("a", 40, lines=5), engines=engines))) == 16


def test_an_urgent_batch_gets_the_place_of_an_idle_shard_of_the_last_one() -> None:
    held = [HeldView("late", no, CHAT, waiting=50, is_idle=no in {3, 5}) for no in range(8)]
    batches = [a_batch("late", expires_at=9_000), a_batch("soon", expires_at=2_000)]
    snap = snapshot(batches, shards_of("late", 9) + shards_of("soon", 1), held=held)
    found = plan(snap, LIMITS)
    assert (found.leases, found.returns) == ((), (("late", 5),))


def test_no_shard_is_given_back_for_a_less_urgent_batch_or_while_it_has_lines_in_flight() -> None:
    busy = [HeldView("late", no, CHAT, waiting=50) for no in range(8)]
    idle = [HeldView("soon", no, CHAT, waiting=0, is_idle=True) for no in range(8)]
    batches = [a_batch("late", expires_at=9_000), a_batch("soon", expires_at=2_000)]
    shards = shards_of("late", 9) + shards_of("soon", 9)
    for held in (busy, idle):
        assert plan(snapshot(batches, shards, held=held), LIMITS).returns == ()


def three_batches() -> tuple[list[BatchRecord], list[ShardRecord]]:
    """The first has more lines waiting than its model needs."""
    names = ("a", "b", "c")
    batches = [a_batch(name, expires_at=2_000 + no) for no, name in enumerate(names)]
    return batches, [shard for name in names for shard in shards_of(name, 9)]


def held_of_first(count: int, *, shares: bool) -> list[HeldView]:
    return [HeldView("a", no, CHAT, waiting=60, shares=shares) for no in range(count)]


def test_while_lines_begin_alike_the_next_batches_have_a_shard_open_too() -> None:
    batches, shards = three_batches()
    alike = snapshot(batches, shards, held=held_of_first(2, shares=True))
    assert leased(alike) == [("b", 0), ("c", 0)]
    assert leased(snapshot(batches, shards, held=held_of_first(2, shares=False))) == []
    assert leased(replace(alike, waits={"b": "off-peak"})) == [("c", 0)]


def test_shards_opened_for_what_they_share_leave_half_of_the_places_free() -> None:
    batches, shards = three_batches()
    assert leased(snapshot(batches, shards, held=held_of_first(3, shares=True))) == [("b", 0)]
    assert leased(snapshot(batches, shards, held=held_of_first(4, shares=True))) == []


def test_only_a_few_batches_are_open_for_what_they_share_and_each_with_one_shard() -> None:
    batches = [a_batch(f"b{no}", expires_at=2_000 + no) for no in range(9)]
    shards = [shard for batch in batches for shard in shards_of(batch.id, 3)]
    held = [HeldView("b0", 0, CHAT, waiting=200, shares=True)]
    snap = snapshot(batches, shards, held=held)
    found = leased(snap, replace(LIMITS, shards_open_max=40))
    assert found == [("b1", 0), ("b2", 0), ("b3", 0)]


def test_batches_with_a_short_deadline_let_nobody_go_first() -> None:
    batches = [a_batch("soon", expires_at=1_100), a_batch("later", expires_at=90_000)]
    assert plan(snapshot(batches, []), LIMITS).hurried == {"soon"}


def test_a_leased_shard_is_taken_only_after_its_expiry() -> None:
    shards = [
        replace(shard, state=ShardState.LEASED, holder="other", lease_expires_at=NOW + after)
        for shard, after in zip(shards_of("a", 2), (0.0, 0.1), strict=True)
    ]
    assert leased(snapshot([a_batch("a")], shards)) == [("a", 0)]


def test_a_model_without_engine_pauses_its_batch_with_the_reason() -> None:
    found = plan(snapshot([a_batch("a")], shards_of("a", 2), engines=[], outages={CHAT: "no engine"}), LIMITS)
    assert (found.leases, found.pauses) == ((), (Pause("a", "no engine"),))


def test_a_pause_is_not_repeated_but_a_new_reason_is_told() -> None:
    snap = snapshot([a_batch("a", paused="no engine")], shards_of("a", 1), engines=[], outages={CHAT: "no engine"})
    assert plan(snap, LIMITS).pauses == ()
    assert plan(replace(snap, outages={CHAT: "down"}), LIMITS).pauses == (Pause("a", "down"),)


def test_a_batch_of_two_models_runs_as_long_as_one_can() -> None:
    shards = shards_of("a", 1) + [replace(shard, shard_no=1) for shard in shards_of("a", 1, key=EMBED)]
    found = plan(
        snapshot([a_batch("a")], shards, engines=[an_engine(serves=[EMBED])], outages={CHAT: "no engine"}), LIMITS
    )
    assert found.pauses == ()
    assert [shard.shard_no for shard in found.leases] == [1]


def test_a_disk_below_its_reserve_stops_leasing_and_pauses() -> None:
    found = plan(snapshot([a_batch("a")], shards_of("a", 2), disk="full"), LIMITS)
    assert (found.leases, found.pauses) == ((), (Pause("a", "full"),))


def test_a_batch_resumes_when_the_reason_is_gone() -> None:
    assert plan(snapshot([a_batch("a", paused="full")], shards_of("a", 1)), LIMITS).resumes == ("a",)


def test_a_batch_that_waits_to_be_composed_keeps_its_pause() -> None:
    found = plan(snapshot([a_batch("a", paused="no room to compose")], []), LIMITS)
    assert (found.pauses, found.resumes) == ((), ())


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(1, 60)), min_size=1, max_size=6),
    st.lists(st.integers(0, 40), max_size=8),
    st.integers(1, 3),
)
def test_no_plan_exceeds_the_room_or_leases_twice(
    batches: list[tuple[int, int]], held_waiting: list[int], engines: int
) -> None:
    records = [a_batch(f"b{no}", expires_at=2_000 + no) for no in range(len(batches))]
    shards = [s for no, (count, lines) in enumerate(batches) for s in shards_of(f"b{no}", count, lines=lines)]
    held = [HeldView("b0", no, CHAT, waiting) for no, waiting in enumerate(held_waiting)]
    snap = snapshot(records, shards, held=held, engines=[an_engine(f"e{no}") for no in range(engines)])
    found = leased(snap)
    assert len(found) == len(set(found))
    assert not set(found) & {(view.batch_id, view.shard_no) for view in held}
    assert len(found) + len(held) <= max(engines * LIMITS.shards_open_max, len(held))
