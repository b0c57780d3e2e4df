"""The outside signal: what a reading means, how long it counts, where it is read, and that batches wait for it."""

from __future__ import annotations

import asyncio
import json
import os
import time as clock
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler import Scheduler
from scheduler.actors.signal import Signal
from scheduler.actors.signal_sources import TEXT_BYTES_MAX, FileSource, UrlSource
from scheduler.facts.windows import Calendar
from scheduler.policy.holding import Hold
from scheduler.policy.outside_signal import (
    Condition,
    SignalRules,
    SignalState,
    Unreadable,
    failed,
    judge,
    reading_of,
    seen,
    told,
    wait_reason,
)
from tests.scheduler.world import SETTINGS, World, chats, running

PRICE = Condition(hold_above=250.0)
RULES = SignalRules("price", PRICE, stale_after_seconds=300.0, hold_on_failure=False, zone=UTC)
HOLDS_BLIND = SignalRules("price", PRICE, stale_after_seconds=300.0, hold_on_failure=True, zone=UTC)
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
NOON = datetime(2026, 6, 10, 12, tzinfo=UTC).timestamp()


# --- what a reading means


@pytest.mark.parametrize(
    ("text", "condition", "busy", "shown"),
    [
        ("312.4\n", PRICE, True, "312.4 is above 250"),
        ("250", PRICE, False, "250 is not above 250"),
        ("-5e1", Condition(hold_below=0.0), True, "-50 is below 0"),
        ("0", Condition(hold_below=0.0), False, "0 is not below 0"),
        (" Busy \n", Condition(busy_when="busy"), True, "it says 'Busy'"),
        ("idle", Condition(busy_when="busy"), False, "it says 'idle'"),
        ('{"data":[{"price":300}]}', Condition(json_path="data.0.price", hold_above=250.0), True, "300 is above 250"),
        ("[1, 2, 3]", Condition(json_path="-1", hold_above=2.5), True, "3 is above 2.5"),
        ('{"busy":true}', Condition(json_path="busy", busy_when="true"), True, "it says 'true'"),
        ('{"state":"HIGH"}', Condition(json_path="state", busy_when="high"), True, "it says 'HIGH'"),
        ("load: 7.5 of 8\n", Condition(regex=r"load: ([\d.]+)", hold_above=6.0), True, "7.5 is above 6"),
        ("a\nDCGM_FI 93\nb", Condition(regex=r"(?m)^DCGM_FI (\S+)", hold_above=90.0), True, "93 is above 90"),
        ("now: MAINTENANCE", Condition(regex="[A-Z]{2,}", busy_when="maintenance"), True, "it says 'MAINTENANCE'"),
    ],
)  # fmt: skip
def test_a_reading_is_held_against_its_limit(text: str, condition: Condition, busy: bool, shown: str) -> None:
    verdict = judge(text, condition, was_busy=False)
    assert (verdict.busy, verdict.shown) == (busy, shown)


@pytest.mark.parametrize(
    ("text", "condition", "problem"),
    [
        ("dear", PRICE, "it says 'dear', which is no number"),
        ("", PRICE, "it says '', which is no number"),
        ("nan", PRICE, "no number"),
        ("<html>", Condition(json_path="price", hold_above=1.0), "what it says is no JSON"),
        ("[" * 100_000, Condition(json_path="price", hold_above=1.0), "what it says is no JSON"),
        ('{"a":{}}', Condition(json_path="a.b", hold_above=1.0), "there is no 'b'"),
        ('{"a":[1]}', Condition(json_path="a.1", hold_above=1.0), "there is no '1'"),
        ('{"a":[1]}', Condition(json_path="a", hold_above=1.0), "a list or an object"),
        ('{"a":null}', Condition(json_path="a", busy_when="x"), "there is no 'a'"),
        ("nothing here", Condition(regex=r"load (\d+)", hold_above=1.0), "is nowhere in what it says"),
    ],
)
def test_what_is_no_reading_says_what_is_wrong_with_it(text: str, condition: Condition, problem: str) -> None:
    with pytest.raises(Unreadable, match=problem):
        judge(text, condition, was_busy=False)


@settings(deadline=None)
@given(text=st.text(), path=st.text(min_size=1), as_json=st.booleans())
def test_no_text_is_more_than_unreadable(text: str, path: str, as_json: bool) -> None:
    condition = Condition(json_path=path, hold_above=1.0) if as_json else PRICE
    with suppress(Unreadable):
        judge(text, condition, was_busy=False)


@settings(deadline=None)
@given(value=JSON)
def test_any_json_has_a_reading_or_is_unreadable(value: object) -> None:
    with suppress(Unreadable):
        assert isinstance(reading_of(json.dumps({"a": value}), Condition(json_path="a")), str)


@pytest.mark.parametrize(
    ("value", "was_busy", "busy"), [(251, False, True), (240, True, True), (240, False, False), (229, True, False)]
)
def test_a_number_near_its_limit_does_not_send_work_to_and_fro(value: float, was_busy: bool, busy: bool) -> None:
    above = Condition(hold_above=250.0, resume_margin=20.0)
    below = Condition(hold_below=-250.0, resume_margin=20.0)
    assert judge(str(value), above, was_busy=was_busy).busy is busy
    assert judge(str(-value), below, was_busy=was_busy).busy is busy


# --- how long it counts


def state_after(*readings: tuple[float, float | None], rules: SignalRules = RULES) -> SignalState:
    """(time after noon, value or None for a look that failed)."""
    state = SignalState()
    for at, value in readings:
        if value is None:
            state = failed(state, "no answer")
        else:
            state = seen(state, judge(str(value), rules.condition, was_busy=state.held is not None), NOON + at)
    return state


def test_work_waits_from_the_first_reading_that_is_busy_to_the_first_that_is_not() -> None:
    assert wait_reason(SignalState(), RULES, NOON) is None
    assert wait_reason(state_after((0, 300)), RULES, NOON) == (
        "Waits since Wed 10 Jun 12:00 for the outside signal 'price': 300 is above 250"
    )
    assert wait_reason(state_after((0, 300), (60, 200)), RULES, NOON + 60) is None


def test_the_reason_does_not_change_with_each_reading() -> None:
    assert wait_reason(state_after((0, 300), (60, 310), (120, None)), RULES, NOON + 120) == wait_reason(
        state_after((0, 300)), RULES, NOON
    )


def test_a_signal_that_cannot_be_read_counts_until_it_is_stale_and_then_leaves_it_to_the_clock() -> None:
    state = state_after((0, 300), (60, None))
    assert wait_reason(state, RULES, NOON + 300) is not None
    assert wait_reason(state, RULES, NOON + 301) is None
    assert told(state, RULES, NOON + 301) == "signal 'price' is not known: no answer; the clock alone decides."


def test_whoever_wants_it_waits_for_a_signal_that_cannot_be_read() -> None:
    state = state_after((0, 200), (60, None))
    assert wait_reason(state, HOLDS_BLIND, NOON + 300) is None
    assert wait_reason(state, HOLDS_BLIND, NOON + 301) == (
        "Waits for the outside signal 'price', which cannot be read (no answer)"
    )
    assert wait_reason(SignalState(), HOLDS_BLIND, NOON) is not None


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1000), st.none() | st.floats(0, 500)), max_size=20),
    st.floats(0, 2000),
    st.booleans(),
)
def test_whatever_happens_work_waits_only_for_a_reading_that_is_fresh(
    steps: list[tuple[float, float | None]], later: float, holds_blind: bool
) -> None:
    rules, at = (HOLDS_BLIND if holds_blind else RULES), 0.0
    readings = []
    for seconds, value in steps:
        at += seconds
        readings.append((at, value))
    known = [(when, value) for when, value in readings if value is not None]
    fresh = bool(known) and at + later - known[-1][0] <= rules.stale_after_seconds
    reason = wait_reason(state_after(*readings, rules=rules), rules, NOON + at + later)
    assert (reason is not None) == ((known[-1][1] or 0) > 250 if fresh else holds_blind)


# --- where it is read


@dataclass
class Outside:
    """A server that says what a test lets it say."""

    text: str = "100"
    status: int = 200
    url: str = ""
    asked: list[web.Request] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request)
        return web.Response(text=self.text, status=self.status, headers={"location": "/elsewhere"})


@asynccontextmanager
async def outside() -> AsyncIterator[Outside]:
    said = Outside()
    app = web.Application()
    app.router.add_get("/price", said.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        said.url = f"http://127.0.0.1:{port}/price"
        yield said
    finally:
        await runner.cleanup()


def url_source(url: str, *, allow_private: bool = True, seconds_max: float = 10.0, **headers: str) -> UrlSource:
    return UrlSource(url, headers=headers, allow_private=allow_private, seconds_max=seconds_max)


async def test_a_url_is_read_with_its_token() -> None:
    async with outside() as said:
        source = url_source(said.url, authorization="Bearer secret")
        said.text = "312.4"
        assert await source.read() == "312.4"
        await source.close()
    assert said.asked[0].headers["authorization"] == "Bearer secret"
    assert said.asked[0].headers["user-agent"].startswith("Nightbatch/")


@pytest.mark.parametrize(
    ("status", "problem"),
    [(500, "it answered 500"), (404, "it answered 404"), (302, "a redirect, which is not")],
)
async def test_an_answer_that_is_none_is_no_reading(status: int, problem: str) -> None:
    async with outside() as said:
        said.status = status
        source = url_source(said.url)
        with pytest.raises(Unreadable, match=problem):
            await source.read()
        await source.close()
    assert len(said.asked) == 1


async def test_an_endless_answer_is_no_reading() -> None:
    async with outside() as said:
        said.text = "x" * (TEXT_BYTES_MAX + 1)
        source = url_source(said.url)
        with pytest.raises(Unreadable, match="it answered more than 262,144 bytes"):
            await source.read()
        await source.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "10.0.0.1", "169.254.169.254"])
async def test_an_address_that_is_not_public_is_not_asked(host: str) -> None:
    source = url_source(f"http://{host}:9/", allow_private=False)
    with pytest.raises(Unreadable, match="set allow_private = true for the signal"):
        await source.read()
    await source.close()


async def test_nobody_at_home_is_no_reading() -> None:
    source = url_source("http://127.0.0.1:9/")
    with pytest.raises(Unreadable, match="Cannot connect"):
        await source.read()
    await source.close()


async def test_a_server_that_does_not_answer_is_not_waited_for() -> None:
    async def silent(_request: web.Request) -> web.Response:
        await held.wait()
        return web.Response()

    held = asyncio.Event()
    runner = web.ServerRunner(web.Server(silent))  # type: ignore[arg-type]
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    source = url_source(f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/", seconds_max=0.2)  # type: ignore[attr-defined]
    with pytest.raises(Unreadable, match=r"no answer within 0\.2 s"):
        await source.read()
    held.set()
    await source.close()
    await runner.cleanup()


def file_source(path: Path, *, age_seconds_max: float | None = None) -> FileSource:
    return FileSource(path, age_seconds_max=age_seconds_max, seconds_max=10.0, now=clock.time)


async def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "signal"
    path.write_text("busy\n", encoding="utf-8")
    source = file_source(path)
    assert await source.read() == "busy\n"
    await source.close()


async def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    (tmp_path / "huge").write_bytes(b"x" * (TEXT_BYTES_MAX + 1))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "old").write_text("busy", encoding="utf-8")
    os.utime(tmp_path / "old", (1.0, 1.0))
    for name, age_seconds_max, problem in (
        ("none", None, "the file cannot be read: No such file or directory"),
        (".", None, "the file cannot be read: Is a directory"),
        ("pipe", None, "it is no regular file"),
        ("huge", None, "the file has more than 262,144 bytes"),
        ("old", 60.0, "the file was last written more than 60 s ago"),  # no figure that changes with each look
    ):
        source = file_source(tmp_path / name, age_seconds_max=age_seconds_max)
        with pytest.raises(Unreadable, match=problem):
            await source.read()
        await source.close()


# --- that batches wait for it


def signal_of(path: Path) -> Signal:
    rules = SignalRules("meter", Condition(busy_when="busy"), 60.0, False, UTC)
    return Signal(rules, file_source(path), every_seconds=0.02, now=clock.time)


async def test_a_batch_waits_while_the_signal_says_busy_and_goes_on_when_it_does_not(
    world: World, tmp_path: Path
) -> None:
    path = tmp_path / "signal"
    path.write_text("busy", encoding="utf-8")
    signal = signal_of(path)
    await signal.look()
    scheduler = Scheduler(
        world.store, world.registry, SETTINGS, holder="one", hold=Hold(Calendar(), 1.25, 60.0), signal=signal
    )
    batch = await world.batch(chats(40), expires_at=int(clock.time()) + 24 * 3600)
    async with running(scheduler):
        waiting = await world.until(batch, lambda found: found.pause_reason is not None)
        assert (waiting.pause_reason or "").startswith("Waits since ")
        assert "for the outside signal 'meter': it says 'busy'; the batch expires at " in (waiting.pause_reason or "")
        assert waiting.counts.completed == 0
        (tmp_path / "new").write_text("free", encoding="utf-8")
        (tmp_path / "new").replace(path)
        done = await world.until(batch, lambda found: found.status.terminal)
    assert (done.status.value, done.counts.completed, done.pause_reason) == ("completed", 40, None)


async def test_a_batch_that_must_run_to_be_in_time_does_so_whatever_the_signal_says(
    world: World, tmp_path: Path
) -> None:
    path = tmp_path / "signal"
    path.write_text("busy", encoding="utf-8")
    signal = signal_of(path)
    await signal.look()
    hold = Hold(Calendar(), 1.25, reserve_seconds=3600.0)
    batch = await world.batch(chats(40), expires_at=int(clock.time()) + 1800)
    async with running(Scheduler(world.store, world.registry, SETTINGS, holder="one", hold=hold, signal=signal)):
        done = await world.until(batch, lambda found: found.status.terminal)
    assert (done.status.value, done.counts.completed) == ("completed", 40)
