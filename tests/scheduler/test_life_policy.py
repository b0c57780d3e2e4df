"""Which models are there and whose turn it is: tables, and what must hold of every history."""

from __future__ import annotations

from datetime import datetime, time
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.facts.hours import Hours
from scheduler.facts.windows import Calendar, Window
from scheduler.policy.life import Decision, Life, Lives, Turn, TurnLimits, apart, decide

BERLIN = ZoneInfo("Europe/Berlin")
NIGHTS = Calendar((Window("night", frozenset(range(7)), time(22), time(6), BERLIN),), zone=BERLIN)
LIMITS = TurnLimits(seconds_max=1800, seconds_min=120, start_multiple=5)


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN).timestamp()


def life(model: str, hours: Hours = Hours.ALWAYS, turns: str | None = None) -> Life:
    return Life(model, (f"{model}-1", f"{model}-2"), hours, turns=turns)


def decided(
    lives: Lives,
    now: float,
    *,
    slack: dict[str, float] | None = None,
    busy: frozenset[str] = frozenset(),
    turns: dict[str, Turn] | None = None,
    start_seconds: dict[str, float] | None = None,
    stuck: frozenset[str] = frozenset(),
) -> Decision:
    return decide(
        lives,
        now=now,
        slack=slack or {},
        busy=busy,
        turns=turns or {},
        start_seconds=start_seconds or {},
        stuck=stuck,
    )


NIGHT_AND_DAY = Lives((life("large", Hours.OFF_PEAK), life("small", Hours.PEAK)), NIGHTS)


def test_the_large_one_is_there_at_night_and_the_small_one_by_day() -> None:
    by_day, at_night = decided(NIGHT_AND_DAY, at("2026-11-24 12:00")), decided(NIGHT_AND_DAY, at("2026-11-24 23:00"))
    assert (by_day.verdicts["large"].here, by_day.verdicts["small"].here) == (False, True)
    assert (at_night.verdicts["large"].here, at_night.verdicts["small"].here) == (True, False)


def test_a_model_that_is_away_says_until_when() -> None:
    verdict = decided(NIGHT_AND_DAY, at("2026-11-24 12:00")).verdicts["large"]
    assert verdict.back_at == at("2026-11-24 22:00")
    assert verdict.reason == "until Tue 24 Nov 22:00 (Europe/Berlin): it runs in off-peak windows only"


def test_models_of_opposite_hours_or_of_one_turn_group_are_never_together() -> None:
    lives = [life("a", turns="gpu"), life("b", turns="gpu"), life("c", Hours.OFF_PEAK), life("d", Hours.PEAK)]
    found = apart(lives)
    assert found["a-1"] == {"b-1", "b-2"}
    assert found["c-2"] == {"d-1", "d-2"}


GROUP = Lives((life("home", turns="gpu"), life("big", turns="gpu"), life("huge", turns="gpu")), NIGHTS, LIMITS)
T0 = at("2026-11-24 23:00")


@pytest.mark.parametrize(
    ("slack", "busy", "turn", "held_seconds", "expected"),
    [
        ({}, [], None, 0, "home"),  # nobody has work: the first is at home
        ({"big": 9e9}, [], None, 0, "big"),
        ({"big": 9e9, "huge": 8e9}, [], None, 0, "huge"),  # least slack first
        ({"big": 9e9}, [], "home", 60, "home"),  # a turn lasts a while
        ({"big": 9e9}, [], "home", 121, "big"),
        ({"big": 9e9}, ["home"], "home", 121, "home"),  # who answers people keeps its turn
        ({"big": 9e9}, ["home"], "home", 1801, "big"),  # ... but not for ever
        ({"big": 9e9, "huge": 8e9}, [], "big", 1700, "big"),  # lines of one model run together
        ({"big": 9e9, "huge": 8e9}, [], "big", 1801, "huge"),
        ({"big": 8e9, "huge": 9e9}, [], "big", 9999, "big"),
        ({"big": 9e9, "huge": 1000}, [], "big", 200, "huge"),  # a deadline before the turn's end
        ({"big": 500, "huge": 1000}, [], "big", 200, "big"),
        ({}, [], "big", 60, "big"),
        ({}, [], "big", 121, "home"),
        ({}, ["big"], "big", 121, "big"),
    ],
)
def test_whose_turn_it_is(
    slack: dict[str, float], busy: list[str], turn: str | None, held_seconds: float, expected: str
) -> None:
    turns = {} if turn is None else {"gpu": Turn(turn, T0 - held_seconds)}
    found = decided(GROUP, T0, slack=slack, busy=frozenset(busy), turns=turns)
    assert found.turns["gpu"].model == expected
    assert [model for model, verdict in found.verdicts.items() if verdict.here] == [expected]


def test_a_model_that_is_late_for_good_gives_the_turn_to_others_and_does_not_hurry_them() -> None:
    slack = {"big": -86_400.0, "huge": 9e5}
    late = {"gpu": Turn("big", T0 - 1801)}
    assert decided(GROUP, T0, slack=slack, turns=late).turns["gpu"].model == "huge"
    for held_seconds, expected in ((900, "huge"), (1801, "big")):
        turns = {"gpu": Turn("huge", T0 - held_seconds)}
        assert decided(GROUP, T0, slack=slack, turns=turns).turns["gpu"].model == expected


def test_a_model_whose_engine_does_not_come_holds_up_no_other() -> None:
    slack, turns = {"big": 5000.0, "huge": 9e5}, {"gpu": Turn("big", T0 - 1801)}
    assert decided(GROUP, T0, slack=slack, turns=turns, stuck=frozenset({"big"})).turns["gpu"].model == "huge"
    assert decided(GROUP, T0, slack=slack, turns=turns).turns["gpu"].model == "big"
    only = decided(GROUP, T0, slack={"big": 5000.0}, turns=turns, stuck=frozenset({"big"}))
    assert only.turns["gpu"].model == "big"


def test_a_turn_lasts_a_multiple_of_the_start_that_ends_it() -> None:
    turns = {"gpu": Turn("home", T0 - 400)}
    slow, fast = {"big": 100.0}, {"big": 10.0}
    assert decided(GROUP, T0, slack={"big": 9e9}, turns=turns, start_seconds=slow).turns["gpu"].model == "home"
    assert decided(GROUP, T0, slack={"big": 9e9}, turns=turns, start_seconds=fast).turns["gpu"].model == "big"


def test_a_model_out_of_its_hours_has_no_turn_whatever_waits_for_it() -> None:
    lives = Lives((life("chat", turns="gpu"), life("big", Hours.OFF_PEAK, "gpu")), NIGHTS, LIMITS)
    found = decided(lives, at("2026-11-24 12:00"), slack={"big": 0.0})
    assert found.turns["gpu"].model == "chat"
    assert found.verdicts["big"].back_at == at("2026-11-24 22:00")


def test_who_waits_for_its_turn_is_told_whose_it_is() -> None:
    verdict = decided(GROUP, T0).verdicts["big"]
    assert (verdict.reason, verdict.back_at) == ("model home has its turn in 'gpu'", None)


STEPS = st.lists(
    st.tuples(
        st.floats(1, 3000),
        st.dictionaries(st.sampled_from(["home", "big", "huge"]), st.floats(-1e5, 1e6)),
        st.frozensets(st.sampled_from(["home", "big", "huge"])),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(steps=STEPS, start_seconds=st.floats(0, 600))
def test_one_of_a_group_is_there_and_no_turn_is_shorter_than_the_least(
    steps: list[tuple[float, dict[str, float], frozenset[str]]], start_seconds: float
) -> None:
    starts = dict.fromkeys(["home", "big", "huge"], start_seconds)
    now, turns = T0, dict[str, Turn]()
    for seconds, slack, busy in steps:
        now += seconds
        before = turns.get("gpu")
        found = decided(GROUP, now, slack=slack, busy=busy, turns=turns, start_seconds=starts)
        turns = dict(found.turns)
        assert sum(verdict.here for verdict in found.verdicts.values()) == 1
        if before is not None and turns["gpu"] != before:
            assert now - before.since_at >= min(LIMITS.seconds_max, max(LIMITS.seconds_min, 5 * start_seconds))


@settings(deadline=None)
@given(start_seconds=st.floats(0, 600), slacks=st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)))
def test_no_model_with_work_waits_for_ever(start_seconds: float, slacks: tuple[float, float]) -> None:
    """Slack falls while a model waits and stands still while it runs: in the long run everyone has a turn."""
    starts = dict.fromkeys(["home", "big", "huge"], start_seconds)
    slack = {"big": slacks[0], "huge": slacks[1]}
    turns: dict[str, Turn] = {}
    seen: set[str] = set()
    for minute in range(60 * 24 * 14):
        found = decided(GROUP, T0 + 600 * minute, slack=slack, turns=turns, start_seconds=starts)
        turns = dict(found.turns)
        seen.add(turns["gpu"].model)
        if seen == {"big", "huge"}:
            return
        slack = {model: left - 600 * (model != turns["gpu"].model) for model, left in slack.items()}
    raise AssertionError(f"only {seen} had a turn in all that time")
