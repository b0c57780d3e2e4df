"""Events on their way: signed as OpenAI's clients verify, repeated until taken, and never sent to the wrong place."""

from __future__ import annotations

import asyncio
import base64
import json
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from openai.types.webhooks import BatchCompletedWebhookEvent
from prometheus_client import REGISTRY
from sqlalchemy import event as sqlalchemy_event

from scheduler.actors.hook import CommandTarget
from scheduler.actors.notifier import DeliveryError, Notifier
from scheduler.actors.webhooks import WebhookSettings, WebhookTarget
from scheduler.policy.delivering import (
    GIVE_UP_SECONDS,
    WAIT_SECONDS_MAX,
    address_refusal,
    next_attempt_at,
    secret_problem,
)
from store import Store
from store.events import Delivery, EventRecord
from store.records import BatchStatus
from tests.scheduler.world import World, chats, poll, running

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
EVENT = EventRecord(1, "evt_1", "t", "batch.completed", "batch_1", 1_795_430_133)


@dataclass
class Receiver:
    """A real HTTP server that takes events, and refuses the first `refusals` of them with `status`."""

    url: str = ""
    status: int = 500
    refusals: int = 0
    got: list[tuple[Mapping[str, str], bytes]] = field(default_factory=list)
    wait: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, request: web.Request) -> web.Response:
        self.got.append((request.headers.copy(), await request.read()))
        await self.wait.wait()
        if len(self.got) <= self.refusals:
            return web.Response(status=self.status, text="not now", headers={"location": f"{self.url}/elsewhere"})
        return web.Response(status=204)


@asynccontextmanager
async def receiving(**options: Any) -> AsyncIterator[Receiver]:
    receiver = Receiver(**options)
    receiver.wait.set()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    try:
        yield receiver
    finally:
        receiver.wait.set()
        await runner.cleanup()


def target(url: str, *, now: Callable[[], float] = time.time, **options: Any) -> WebhookTarget:
    settings: dict[str, Any] = {"name": "hook", "url": url, "secrets": [SECRET], "allow_private": True, **options}
    return WebhookTarget(WebhookSettings(**settings), now=now)


async def delivered(one: WebhookTarget, event: EventRecord = EVENT) -> None:
    try:
        await one.deliver(event)
    finally:
        await one.close()


@pytest.mark.parametrize("secret", [SECRET, "any text will do"])
async def test_openais_clients_verify_and_read_the_event(secret: str) -> None:
    async with receiving() as receiver:
        await delivered(target(receiver.url, secrets=[secret]))
    headers, body = receiver.got[0]
    event = openai.OpenAI(api_key="x", webhook_secret=secret).webhooks.unwrap(body, dict(headers))
    assert isinstance(event, BatchCompletedWebhookEvent)
    assert (event.type, event.id, event.created_at) == ("batch.completed", "evt_1", 1_795_430_133)
    assert event.data.id == "batch_1"
    again = openai.AsyncOpenAI(api_key="x", webhook_secret=secret).webhooks.unwrap(body, dict(headers))
    assert again == event
    with pytest.raises(openai.InvalidWebhookSignatureError):
        openai.OpenAI(api_key="x", webhook_secret="whsec_" + base64.b64encode(b"other").decode()).webhooks.unwrap(
            body, dict(headers)
        )


async def test_while_a_secret_is_changed_receivers_with_either_verify() -> None:
    async with receiving() as receiver:
        await delivered(target(receiver.url, secrets=["old", "new"]))
    headers, body = receiver.got[0]
    for secret in ("old", "new"):
        openai.OpenAI(api_key="x", webhook_secret=secret).webhooks.unwrap(body, dict(headers))


@pytest.mark.parametrize(
    ("status", "says"), [(500, "it answered 500: not now"), (404, "it answered 404"), (302, "a redirect, which is not")]
)
async def test_what_is_no_2xx_is_no_delivery(status: int, says: str) -> None:
    async with receiving(status=status, refusals=1) as receiver:
        with pytest.raises(DeliveryError, match=says):
            await delivered(target(receiver.url))
        assert len(receiver.got) == 1


async def test_a_target_that_is_not_there_is_no_delivery() -> None:
    with pytest.raises(DeliveryError, match="Cannot connect"):
        await delivered(target("http://127.0.0.1:9/hook"))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "10.0.0.1", "169.254.169.254"])
async def test_an_address_that_is_not_public_is_refused_before_anything_is_sent(host: str) -> None:
    with pytest.raises(DeliveryError, match="set allow_private = true for this webhook"):
        await delivered(target(f"http://{host}:9/hook", allow_private=False))


@pytest.mark.parametrize(
    ("address", "word"),
    [
        ("127.0.0.1", "loopback"),
        ("::1", "loopback"),
        ("10.1.2.3", "private"),
        ("192.168.0.1", "private"),
        ("172.16.0.1", "private"),
        ("fd00::1", "private"),
        ("169.254.169.254", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("224.0.0.1", "multicast"),
        ("0.0.0.0", "unspecified"),
        ("::", "unspecified"),
        ("100.64.0.1", "not a public address"),
        ("240.0.0.1", "private"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:10.0.0.1", "private"),
        ("2002:7f00:1::", "loopback"),
        ("64:ff9b::a00:1", "private"),
        ("fec0::1", "not a public address"),
        ("fd00:ec2::254", "private"),
        ("100.100.100.200", "not a public address"),
        ("168.63.129.16", "metadata"),
    ],
)
def test_addresses_inside_a_network_are_refused(address: str, word: str) -> None:
    assert word in (address_refusal(address) or "")


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "2606:2800:220:1::1", "::ffff:93.184.216.34", "64:ff9b::5db8:d822"]
)
def test_public_addresses_are_not_refused(address: str) -> None:
    assert address_refusal(address) is None


@given(st.integers(1, 200), st.floats(0, 1), st.floats(0, GIVE_UP_SECONDS - 1))
def test_waits_double_up_to_an_hour_and_end_after_72_hours(attempts: int, chance: float, age: float) -> None:
    again_at = next_attempt_at(attempts, created_at=0.0, now=age, chance=chance)
    assert again_at is not None
    assert age < again_at <= min(age + WAIT_SECONDS_MAX, GIVE_UP_SECONDS)
    later = next_attempt_at(attempts + 1, created_at=0.0, now=age, chance=chance)
    assert later is not None
    assert later >= again_at
    assert next_attempt_at(attempts, created_at=0.0, now=GIVE_UP_SECONDS, chance=chance) is None


@pytest.mark.parametrize(
    ("secret", "problem"),
    [("", "empty"), ("whsec_%%%", "not base64"), ("whsec_", "nothing follows"), ("x\n", "white space"), ("text", None)],
)
def test_a_secret_that_cannot_sign_is_named(secret: str, problem: str | None) -> None:
    found = secret_problem(secret)
    assert found is None if problem is None else problem in (found or "")


# --- from the end of a batch to its receiver


async def test_each_end_of_a_batch_is_told_once_and_signed_anew_for_each_try(world: World) -> None:
    clock = [float(int(time.time()) + 60)]
    async with receiving(refusals=1) as receiver:
        hook = target(receiver.url, now=lambda: clock[0])
        batch = await world.batch(chats(3))
        async with running(world.scheduler()):
            await world.ended(batch)
        notifier = Notifier(world.store, [hook], now=lambda: clock[0], chance=lambda: 0.0)
        await notifier.start()
        await notifier.look()
        await poll(lambda: tried(world.store, receiver, 1))
        clock[0] += 4.9
        await notifier.look()
        assert len(receiver.got) == 1
        clock[0] += 0.2
        await notifier.look()
        await poll(lambda: tried(world.store, receiver, 2, pending=0))
        await notifier.look()
        await notifier.close()
    (first, body), (second, again) = receiver.got
    assert body == again
    assert first["webhook-id"] == second["webhook-id"]
    assert int(second["webhook-timestamp"]) - int(first["webhook-timestamp"]) == 5
    assert first["webhook-signature"] != second["webhook-signature"]
    assert json.loads(body)["data"] == {"id": batch.id}
    assert (await world.store.events.states())["hook"].delivered == 1


async def tried(store: Store, receiver: Receiver, count: int, *, pending: int = 1) -> bool:
    state = (await store.events.states()).get("hook")
    settled = state is not None and state.pending == pending and (state.last_error is not None or not pending)
    return len(receiver.got) == count and settled


async def test_a_scheduler_with_a_webhook_tells_of_every_end(world: World) -> None:
    async with receiving() as receiver:
        good, cancelled = await world.batch(chats(3)), await world.batch(chats(3))
        broken = await world.batch([b"{"])
        await world.cancel(cancelled)
        scheduler = world.scheduler(targets=[target(receiver.url)], notify_seconds=0.05)
        async with running(scheduler):
            await poll(lambda: is_so(lambda: len(receiver.got) == 3))
    told = {event["data"]["id"]: event["type"] for _, body in receiver.got for event in [json.loads(body)]}
    assert told == {good.id: "batch.completed", cancelled.id: "batch.cancelled", broken.id: "batch.failed"}


async def is_so(holds: Callable[[], bool]) -> bool:
    return holds()


async def test_the_end_of_a_batch_is_told_at_once_and_not_at_the_next_look(world: World) -> None:
    async with receiving() as receiver:
        async with running(world.scheduler(targets=[target(receiver.url)], notify_seconds=3600)):
            batches = [await world.batch(lines) for lines in (chats(1), [b"{"])]
            await poll(lambda: is_so(lambda: len(receiver.got) == 2))
        told = {json.loads(body)["data"]["id"]: json.loads(body)["type"] for _, body in receiver.got}
    assert told == {batches[0].id: "batch.completed", batches[1].id: "batch.failed"}


async def test_an_event_outlives_its_process_and_one_that_was_taken_is_not_sent_again(
    world: World, tmp_path: Path
) -> None:
    async with receiving(refusals=99) as receiver:
        batch = await world.batch(chats(3))
        async with running(world.scheduler(targets=[target(receiver.url)], notify_seconds=0.05)):
            await world.ended(batch)
            await poll(lambda: tried(world.store, receiver, 1))
        receiver.refusals = 0
        late = Notifier(world.store, [target(receiver.url)], now=lambda: time.time() + 60)
        await late.start()
        await late.look()
        await poll(lambda: tried(world.store, receiver, 2, pending=0))
        await late.look()
        await late.close()
        assert len(receiver.got) == 2


async def test_a_slow_target_delays_no_other(world: World) -> None:
    async with receiving() as slow, receiving() as quick:
        slow.wait.clear()
        hooks = [target(slow.url, name="slow"), target(quick.url, name="quick")]
        for _ in range(6):
            await world.batch([b"{"])
        async with running(world.scheduler(targets=hooks, notify_seconds=0.05)):
            await poll(lambda: is_so(lambda: len(quick.got) == 6))
            assert len(slow.got) <= 4
            slow.wait.set()
            await poll(lambda: is_so(lambda: len(slow.got) == 6))


async def test_an_outcome_that_the_store_refuses_is_noted_later_and_nothing_sent_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.actors.notifier.NOTE_AGAIN_SECONDS", 0.01)
    await world.batch([b"{"])
    refusals = 0

    async with receiving() as receiver:

        def full(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            nonlocal refusals
            if "SET attempts" in statement and refusals < 3:
                refusals += 1
                raise sqlite3.OperationalError("database or disk is full")

        writer = world.store.events._database.writer.sync_engine
        sqlalchemy_event.listen(writer, "before_cursor_execute", full)
        async with running(world.scheduler(targets=[target(receiver.url)], notify_seconds=0.01)):
            await poll(lambda: tried(world.store, receiver, 1, pending=0))
        assert (refusals, len(receiver.got)) == (3, 1)


async def test_a_delivery_that_ends_while_the_list_of_due_ones_is_read_is_not_sent_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.batch([b"{"])
    async with running(world.scheduler(notify_seconds=3600)), receiving() as receiver:
        await poll(lambda: one_event(world.store))
        receiver.wait.clear()
        notifier = Notifier(world.store, [target(receiver.url)], now=time.time)
        await notifier.look()
        await poll(lambda: is_so(lambda: len(receiver.got) == 1))
        read = world.store.events.due

        async def read_slowly(*names: Any, **limits: Any) -> list[Delivery]:
            found = await read(*names, **limits)
            receiver.wait.set()
            await poll(lambda: is_so(lambda: not notifier._tasks))
            return found

        monkeypatch.setattr(world.store.events, "due", read_slowly)
        await notifier.look()
        await poll(lambda: is_so(lambda: not notifier._tasks))
        await notifier.close()
        assert len(receiver.got) == 1


async def one_event(store: Store) -> bool:
    return len(await store.events.unplanned(10)) == 1


async def test_what_is_still_to_be_delivered_is_counted(world: World) -> None:
    await world.batch([b"{"])
    async with receiving(refusals=1) as receiver:
        hook = target(receiver.url, name="counted")
        async with running(world.scheduler(targets=[hook], notify_seconds=0.05, report_seconds=0.05)):
            await poll(lambda: is_so(lambda: pending_of("counted") == 1))
            assert (await world.store.events.pending()) == {"counted": 1}
            state = (await world.store.events.states())["counted"]
            assert (state.pending, state.delivered, state.last_error) == (1, 0, "it answered 500: not now")
            await world.store.events.abandon([], at=1)
            await poll(lambda: is_so(lambda: pending_of("counted") == 0))


def pending_of(name: str) -> float | None:
    return REGISTRY.get_sample_value("nightbatch_deliveries_pending", {"target": name})


async def test_a_name_is_looked_up_each_time_and_where_it_leads_counts(world: World) -> None:
    async with receiving() as receiver:
        url = receiver.url.replace("127.0.0.1", "localhost")
        await delivered(target(url))
        assert len(receiver.got) == 1
        with pytest.raises(DeliveryError, match="is a loopback address: set allow_private"):
            await delivered(target(url, allow_private=False))
        assert len(receiver.got) == 1
    with pytest.raises(DeliveryError, match=r"Cannot connect to host no\.such.host.invalid"):
        await delivered(target("https://no.such.host.invalid/hook"))


async def test_a_webhook_of_one_tenant_or_kind_hears_of_no_other() -> None:
    mine = target("http://x", tenant="t", events=("batch.failed",))
    assert mine.wants(EventRecord(1, "e", "t", "batch.failed", "b", 1))
    assert not mine.wants(EventRecord(1, "e", "other", "batch.failed", "b", 1))
    assert not mine.wants(EventRecord(1, "e", "t", "batch.completed", "b", 1))


async def test_events_that_nobody_wants_leave_nothing_behind(world: World) -> None:
    batch = await world.batch(chats(3))
    async with running(world.scheduler(notify_seconds=0.05)):
        await world.ended(batch)
        await poll(lambda: nothing_left(world.store))


async def nothing_left(store: Store) -> bool:
    return await store.events.unplanned(10) == [] and await store.events.states() == {}


async def test_what_waits_for_a_target_that_is_configured_no_longer_is_given_up(world: World) -> None:
    await world.batch([b"{"])
    async with (
        receiving(refusals=99) as receiver,
        running(world.scheduler(targets=[target(receiver.url)], notify_seconds=0.05)),
    ):
        await poll(lambda: tried(world.store, receiver, 1))
    other = Notifier(world.store, [], now=time.time)
    await other.start()
    state = (await world.store.events.states())["hook"]
    assert (state.pending, state.given_up) == (0, 1)
    assert await world.store.events.forget(before=2**40) == 1
    assert await nothing_left(world.store)


async def test_an_event_is_written_in_the_transaction_that_ends_the_batch(tmp_path: Path, world: World) -> None:
    batch = await world.batch(chats(1))
    moved = await world.store.batches.move(batch.id, expected={BatchStatus.VALIDATING}, to=BatchStatus.FAILED, at=7)
    assert moved is not None
    (event,) = await world.store.events.unplanned(10)
    assert (event.type, event.batch_id, event.tenant, event.created_at) == ("batch.failed", batch.id, "t", 7)


# --- the local command


def command(script: str, *, seconds_max: float = 30.0) -> CommandTarget:
    return CommandTarget([sys.executable, "-c", script], seconds_max=seconds_max)


async def test_the_command_gets_the_event_on_its_input_and_in_its_environment(tmp_path: Path) -> None:
    place = tmp_path / "seen"
    script = (
        "import os, sys, pathlib; pathlib.Path(sys.argv[1]).write_text("
        "sys.stdin.read() + ' ' + os.environ['NIGHTBATCH_EVENT_BATCH'] + ' ' + os.environ['NIGHTBATCH_EVENT_TYPE'])"
    )
    await CommandTarget([sys.executable, "-c", script, str(place)], seconds_max=30.0).deliver(EVENT)
    assert place.read_text() == (
        '{"object":"event","id":"evt_1","type":"batch.completed","created_at":1795430133,"data":{"id":"batch_1"}} '
        "batch_1 batch.completed"
    )


async def test_a_command_that_fails_says_what_it_said() -> None:
    with pytest.raises(DeliveryError, match="ended with code 3: no disk"):
        await command("import sys; print('no disk', file=sys.stderr); sys.exit(3)").deliver(EVENT)


async def test_of_a_command_that_says_much_the_end_is_kept() -> None:
    script = "import sys; sys.stderr.write('x' * 10_000_000 + ' the end'); sys.exit(1)"
    with pytest.raises(DeliveryError, match=r"ended with code 1: x+ the end$") as failed:
        await command(script).deliver(EVENT)
    assert len(str(failed.value)) < 500


async def test_what_a_command_leaves_running_is_not_waited_for() -> None:
    script = "import subprocess; subprocess.Popen(['sleep', '30']); raise SystemExit(4)"
    with pytest.raises(DeliveryError, match="ended with code 4"):
        async with asyncio.timeout(10):
            await command(script).deliver(EVENT)


async def test_a_command_that_reads_nothing_is_as_good(tmp_path: Path) -> None:
    await CommandTarget(["true"], seconds_max=30.0).deliver(EVENT)


async def test_a_command_that_cannot_be_run_is_named() -> None:
    with pytest.raises(DeliveryError, match="/no/such/command cannot be run: No such file"):
        await CommandTarget(["/no/such/command"], seconds_max=1.0).deliver(EVENT)


async def test_a_command_that_hangs_is_ended_with_what_it_started(tmp_path: Path) -> None:
    place = tmp_path / "pid"
    script = (
        "import subprocess, sys, pathlib, time; child = subprocess.Popen(['sleep', '600']);"
        f"pathlib.Path({str(place)!r}).write_text(str(child.pid)); time.sleep(600)"
    )
    with pytest.raises(DeliveryError, match="had not ended after 1 s"):
        await command(script, seconds_max=1.0).deliver(EVENT)
    pid = int(place.read_text())
    await poll(
        lambda: is_so(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    )
