"""A month of the real scheduler and the real store, in virtual time, with deaths and crashes and a change of clocks."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from scheduler.facts.deadlines import lines_left
from store import BatchRecord, BatchStatus
from tests.simulation.month import CALENDAR, DAY, END_AT, HOUR, SETTINGS, TENANTS, ZONE, Month, berlin, october
from tests.simulation.virtual_time import run_in_virtual_time

TIERS = {"1h": HOUR, "24h": DAY, "7d": 7 * DAY}
LONG = "_over_the_change_of_clocks"
BY_NOON = "_by_noon"
FIRST = "_shows_how_fast_lines_end"


@dataclass(frozen=True, slots=True)
class Told:
    """What the month came to."""

    batches: list[BatchRecord]
    outputs: dict[str, list[str]]
    asked: list[tuple[float, str]]
    asked_online: int
    answered_online: int
    ended_at: float

    def of(self, tier: str) -> list[BatchRecord]:
        return [batch for batch in self.batches if batch.completion_window == tier]

    def starts(self, batch: BatchRecord) -> list[float]:
        return [at for at, request_id in self.asked if request_id.startswith(f"{batch.id}-")]

    def named(self, name: str) -> BatchRecord:
        return next(batch for batch in self.batches if batch.id.endswith(name))


def _a_month_of_batches(month: Month) -> list[asyncio.Task[None]]:
    """Small ones by day, some that can wait for the night, large ones for the week."""
    source = random.Random(7)
    coming = []

    def submit(at: float, tier: str, lines: int, name: str = "") -> None:
        tenant = source.choice(TENANTS)
        coming.append(
            month.at(at, lambda: month.submit(tier, TIERS.get(tier, 4 * HOUR), lines=lines, tenant=tenant, name=name))
        )

    for day in range(1, 32):
        for _ in range(2):
            submit(berlin(day, source.randrange(7, 20), source.randrange(60)), "1h", 4)
        for _ in range(3):
            submit(berlin(day, source.randrange(7, 20), source.randrange(60)), "24h", 8)
        if day % 4 == 1:
            submit(berlin(day, source.randrange(8, 18)), "7d", 320)
    submit(berlin(1, 1), "24h", 48, FIRST)
    submit(berlin(24, 14), "7d", 480, LONG)
    submit(berlin(14, 8), "by noon", 16, BY_NOON)
    return coming


def _people(month: Month) -> list[asyncio.Task[None]]:
    """Someone asks something, by day and in the night."""
    hours = ((11, 40), (23, 30))
    return [month.at(berlin(day, hour, minute), month.chat) for day in range(2, 31, 7) for hour, minute in hours]


def _accidents(month: Month) -> list[asyncio.Task[None]]:
    """In nights, when everything is in flight: the engine dies three times, the scheduler twice."""
    deaths = [month.at(berlin(day, hour, 17), month.kill_engine) for day, hour in ((6, 2), (13, 23), (25, 4))]
    return [*deaths, *(month.at(berlin(day, 1, 29), month.crash_scheduler) for day in (9, 21))]


def _is_night(at: float) -> bool:
    """Its end is noticed a tick later."""
    return any(CALENDAR.open_at(moment) is not None for moment in (at, at - SETTINGS.tick_seconds))


async def _october(folder: Path) -> Told:
    async with october(folder) as month:
        await asyncio.gather(*_a_month_of_batches(month), *_people(month), *_accidents(month))
        await month.until(END_AT)
        await month.until_all_ended(patience_seconds=7 * DAY)
        batches = await month.every_batch()
        outputs = {batch.id: await month.custom_ids(batch) for batch in batches if batch.output_file_id}
        return Told(batches, outputs, month.engine.asked, month.asked_online, month.answered_online, month.now())


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    return run_in_virtual_time(_october(tmp_path_factory.mktemp("october") / "data"))


def test_every_batch_of_a_month_is_completed_by_its_deadline(told: Told) -> None:
    assert len(told.batches) > 150
    assert {batch.status for batch in told.batches} == {BatchStatus.COMPLETED}
    late = [batch.id for batch in told.batches if (batch.completed_at or 0) > batch.expires_at]
    assert late == []
    assert told.ended_at >= END_AT


def test_nothing_is_lost_and_nothing_comes_twice(told: Told) -> None:
    for batch in told.batches:
        assert lines_left(batch) == 0
        assert batch.counts.failed == 0
        assert told.outputs[batch.id] == [f"row-{no}" for no in range(batch.counts.total)]


def test_an_engine_that_died_and_a_scheduler_that_crashed_cost_only_what_was_in_flight(told: Told) -> None:
    lines = sum(batch.counts.total for batch in told.batches)
    asked = sum(not request_id.startswith("online-") for _, request_id in told.asked)
    nights = (END_AT - berlin(1, 0)) / DAY + 7
    in_flight_max = 16
    assert lines < asked <= lines + in_flight_max * (nights + 5), "each night's end takes back what is in flight"


def test_what_can_wait_runs_in_the_nights_only(told: Told) -> None:
    for batch in (*told.of("24h"), *told.of("7d")):
        starts = told.starts(batch)
        assert starts
        by_day = [at for at in starts if not _is_night(at)]
        assert by_day == [], f"{batch.id}: {[datetime.fromtimestamp(at, ZONE).isoformat() for at in by_day[:3]]}"


def test_what_is_due_before_the_night_runs_by_day(told: Told) -> None:
    for batch in (*told.of("1h"), told.named(BY_NOON)):
        assert min(told.starts(batch)) < batch.created_at + HOUR / 2


def test_the_night_in_which_the_clocks_go_back_is_an_hour_longer(told: Told) -> None:
    """The hour from two to three comes twice, and work goes on in both; six o'clock ends the night as ever."""
    starts = told.starts(told.named(LONG))
    first, second = berlin(25, 2), berlin(25, 2, fold=1)
    assert second - first == HOUR
    assert any(first <= at < second for at in starts)
    assert any(second <= at < second + HOUR for at in starts)
    assert any(berlin(25, 5) <= at < berlin(25, 6) for at in starts)
    assert not any(berlin(25, 6) + SETTINGS.tick_seconds < at < berlin(25, 22) for at in starts)


def test_people_are_answered(told: Told) -> None:
    assert told.answered_online == told.asked_online > 0
