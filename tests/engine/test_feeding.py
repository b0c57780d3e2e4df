"""Whether an engine is fed, and what its front costs."""

from __future__ import annotations

import pytest

from engine.feeding import FRONT_SHARE_MAX, Feeding, FeedMeter
from engine.protocol import EngineMeters
from engine.selection import home_of


def meters(busy: float, *, running: float = 0.0, cpu: float | None = None, answers: int = 0) -> EngineMeters:
    return EngineMeters(busy, running, 0, cpu, answers)


def test_only_time_in_which_lines_waited_counts() -> None:
    meter = FeedMeter()
    for at, busy, is_wanted in ((0, 0, True), (5, 5, True), (10, 9, True), (20, 9, False), (30, 9, False)):
        meter.add(at, meters(busy, running=busy * 8), is_wanted=is_wanted)
    feed = meter.feed("a", slots=16)
    assert feed.busy_share == pytest.approx(0.9)
    assert feed.running == pytest.approx(7.2)
    assert feed.slots == 16
    assert (feed.front_share, feed.warning) == (None, None)


def test_an_engine_that_nothing_waited_for_has_no_share() -> None:
    meter = FeedMeter()
    for at in range(10):
        meter.add(at, meters(0.0), is_wanted=at % 2 == 0)
    assert meter.feed("a").busy_share is None


def test_the_last_minute_counts_and_a_new_life_begins_anew() -> None:
    meter = FeedMeter()
    for at in range(200):
        meter.add(at, meters(min(at, 100)), is_wanted=True)
    assert meter.feed("a").busy_share == 0.0
    meter.add(200, meters(0.0), is_wanted=True)
    meter.add(206, meters(6.0), is_wanted=True)
    assert meter.feed("a").busy_share == 1.0


def test_a_front_that_uses_most_of_a_core_is_named_with_its_bound() -> None:
    meter = FeedMeter()
    for at in range(11):
        meter.add(at, meters(at, cpu=0.75 * at, answers=250 * at), is_wanted=True)
    feed = meter.feed("large")
    assert feed.front_share == pytest.approx(0.75)
    assert feed.front_ms == pytest.approx(3.0)
    assert feed.warning is not None
    assert feed.warning.startswith("The front of engine large uses 75% of a core: 3.0 ms for each of 250 requests/s.")
    assert "333 requests/s" in feed.warning


def test_a_front_below_the_mark_or_with_little_to_do_is_no_reason_to_warn() -> None:
    calm, idle = FeedMeter(), FeedMeter()
    for at in range(11):
        calm.add(at, meters(at, cpu=(FRONT_SHARE_MAX - 0.01) * at, answers=250 * at), is_wanted=True)
        idle.add(at, meters(at, cpu=0.9 * at, answers=0), is_wanted=True)
    assert calm.feed("a").warning is None
    assert idle.feed("a").front_share is None


def test_the_servers_own_loop_is_before_all_engines() -> None:
    feeding = Feeding()
    for at in range(11):
        feeding.look_at_loop(cpu_seconds=0.8 * at, lines=4000 * at, now=at)
    feed = feeding.loop()
    assert feed.front_ms == pytest.approx(0.2)
    assert feed.warning is not None
    assert "5000 lines/s" in feed.warning


def test_each_engine_is_home_to_its_share_and_one_more_moves_no_others() -> None:
    names = ["a", "b", "c", "d"]
    homes = {prefix: home_of(prefix, names) for prefix in range(1, 2001)}
    counts = sorted(list(homes.values()).count(name) for name in names)
    assert counts[0] > 400, counts
    assert all(home_of(prefix, names[::-1]) == home for prefix, home in homes.items())
    moved = [prefix for prefix, home in homes.items() if home_of(prefix, [*names, "e"]) != home]
    assert 250 < len(moved) < 550
    assert all(home_of(prefix, [*names, "e"]) == "e" for prefix in moved)
