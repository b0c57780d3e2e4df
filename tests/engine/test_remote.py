"""What an upstream says of itself, what its statuses mean, and what happens when it goes away."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from engine.backoff import BackoffPolicy
from engine.protocol import (
    CHAT_COMPLETIONS,
    EMBEDDINGS,
    GENERATE_ENDPOINTS,
    POOLING_ENDPOINTS,
    EngineLoad,
    EngineOverloaded,
    EngineRequest,
    EngineStartError,
    EngineState,
    EngineUnavailable,
    ModelKind,
)
from engine.registry import Registry
from engine.remote import RemoteEngine, RemoteLimits
from engine.remote.discovery import UnreadableModels, learn_models, read_models, read_paths
from engine.remote.outcomes import judge, retry_after_seconds
from engine.remote.upstream import root_of
from engine.supervisor import Supervised
from tests.engine.conformance.fronts import FrontProcess
from tests.engine.conformance.harness import EngineUnderTest

until = EngineUnderTest.until
BACKOFF = BackoffPolicy(first_seconds=0.01, longest_seconds=0.02)
QUICK = RemoteLimits(probe_every_seconds=0.05, probe_seconds_max=0.2, probe_failures_max=2)
CHAT_MODEL = "simulated-cpu-135m"
CARD = {"id": "m", "object": "model", "created": 1, "owned_by": "vllm", "root": "org/m", "max_model_len": 8_192}

ANSWER = {"object": "chat.completion", "choices": [{"message": {"content": "Yes."}, "finish_reason": "stop"}]}


def chat(number: int = 0, model: str = CHAT_MODEL, **fields: Any) -> EngineRequest:
    body = {"messages": [{"role": "user", "content": f"{number}"}], **fields}
    return EngineRequest(f"r{number}", model, CHAT_COMPLETIONS, json.dumps(body).encode())


@pytest.mark.parametrize("url", ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"])
def test_a_url_names_the_same_server_with_and_without_v1(url: str) -> None:
    assert root_of(url) == "http://h:1"


def test_a_url_without_a_scheme_is_refused() -> None:
    with pytest.raises(ValueError, match="must begin with http"):
        root_of("h:1/v1")


def test_our_own_server_says_everything() -> None:
    card = CARD | {"kind": "pooling", "endpoints": [EMBEDDINGS], "revision": "r1"}
    (model,) = learn_models(read_models(json.dumps({"data": [card]}).encode()))
    assert (model.kind, model.endpoints, model.revision) == (ModelKind.POOLING, {EMBEDDINGS}, "r1")


def test_a_vllm_server_is_read_from_its_routes() -> None:
    listed = read_models(json.dumps({"data": [CARD]}).encode())
    (chat_model,) = learn_models(listed, paths={*GENERATE_ENDPOINTS, "/health"})
    assert (chat_model.kind, chat_model.endpoints) == (ModelKind.GENERATE, GENERATE_ENDPOINTS)
    assert chat_model.revision == "unverified:org/m"
    assert chat_model.context_tokens_max == 8_192
    (pooling,) = learn_models(listed, paths={"/v1/embeddings", "/health"})
    assert (pooling.kind, pooling.endpoints) == (ModelKind.POOLING, {EMBEDDINGS})


def test_the_owners_word_wins() -> None:
    listed = read_models(json.dumps({"data": [CARD, {"id": "other"}]}).encode())
    (model,) = learn_models(listed, kind=ModelKind.POOLING, allowed=["m"], revisions={"m": "abc"})
    assert (model.kind, model.endpoints, model.revision) == (ModelKind.POOLING, POOLING_ENDPOINTS, "abc")


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"models":[]}', b'{"data":[{"name":"x"}]}'])
def test_what_is_no_model_list_is_said(body: bytes) -> None:
    with pytest.raises(UnreadableModels, match="/v1/models"):
        read_models(body)
    assert read_paths(body) == frozenset()


def test_statuses_mean_later_elsewhere_or_no() -> None:
    with pytest.raises(EngineOverloaded) as later:
        judge("u", CHAT_COMPLETIONS, 429, {"retry-after": "7"}, b"")
    assert later.value.retry_after_seconds == 7
    for status_code in (502, 504, 408, 302):
        with pytest.raises(EngineUnavailable) as elsewhere:
            judge("u", CHAT_COMPLETIONS, status_code, {}, b"")
        assert not elsewhere.value.died
    assert judge("u", CHAT_COMPLETIONS, 422, {}, b"no").status_code == 422
    assert judge("u", CHAT_COMPLETIONS, 500, {}, b"oops").status_code == 500


@pytest.mark.parametrize(
    ("header", "seconds"), [(None, 1), ("Wed, 21 Oct 2026 07:28:00 GMT", 1), ("0.5", 0.5), ("900", 60)]
)
def test_retry_after_is_bounded(header: str | None, seconds: float) -> None:
    assert retry_after_seconds(header) == seconds


@dataclass
class Site:
    listed: list[dict[str, Any]]
    health: int = 200
    metrics: str | None = None
    url: str = ""


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def server(generate: Handler) -> AsyncIterator[Site]:
    """A server in this process; what it says of itself may be changed while it runs."""
    app = web.Application()
    site = Site([CARD | {"kind": "generate"}])

    async def list_models(request: web.Request) -> web.Response:
        return web.json_response({"data": site.listed})

    async def health(request: web.Request) -> web.Response:
        return web.Response(status=site.health)

    app.router.add_get("/v1/models", list_models)

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(status=404) if site.metrics is None else web.Response(text=site.metrics)

    app.router.add_get("/metrics", metrics)
    app.router.add_get("/health", health)
    app.router.add_post(CHAT_COMPLETIONS, generate)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    site.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield site
    finally:
        await runner.cleanup()


@asynccontextmanager
async def remote(url: str, **options: Any) -> AsyncIterator[RemoteEngine]:
    engine = RemoteEngine("up", url, **options)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


async def test_a_500_of_a_healthy_upstream_is_the_requests_result() -> None:
    async def broken(request: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "boom", "code": 500}}, status=500)

    async with server(broken) as site, remote(site.url) as engine:
        result = await engine.generate(chat(model="m"))
        assert result.status_code == 500
        assert json.loads(result.body)["error"]["type"] == "server_error"


async def test_a_500_of_a_sick_upstream_is_a_death_and_ejects_it() -> None:
    async def dying(request: web.Request) -> web.Response:
        site.health = 503
        return web.json_response({"error": {"message": "EngineCore encountered an issue"}}, status=500)

    async with server(dying) as site, remote(site.url) as engine:
        with pytest.raises(EngineUnavailable) as raised:
            await engine.generate(chat(model="m"))
        assert raised.value.died
        await until(lambda: engine.status().state is EngineState.STOPPED)
        assert "answered 503" in (engine.status().reason or "")


async def test_a_model_that_went_away_is_no_fault_of_the_line() -> None:
    async def gone(request: web.Request) -> web.Response:
        site.listed = [CARD | {"id": "other", "kind": "generate"}]
        return web.json_response({"error": {"message": "The model `m` does not exist."}}, status=404)

    async with server(gone) as site, remote(site.url) as engine:
        for _ in range(2):
            with pytest.raises(EngineUnavailable, match="no longer serves model 'm'"):
                await engine.generate(chat(model="m"))


async def test_a_full_queue_is_later_not_elsewhere() -> None:
    async def full(request: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "busy"}}, status=503)

    async with server(full) as site, remote(site.url) as engine:
        with pytest.raises(EngineOverloaded):
            await engine.generate(chat(model="m"))


async def test_a_refused_key_takes_the_upstream_out_and_says_why() -> None:
    async def locked(request: web.Request) -> web.Response:
        return web.json_response({"error": "Unauthorized"}, status=401)

    async with server(locked) as site, remote(site.url) as engine:
        with pytest.raises(EngineUnavailable, match="set api_key"):
            await engine.generate(chat(model="m"))
        assert engine.status().state is EngineState.STOPPED
        assert "refuses our API key (401)" in (engine.status().reason or "")


async def test_a_broken_connection_is_a_death_and_no_answer_in_time_is_none() -> None:
    async def hang_up(request: web.Request) -> web.Response:
        if "slow" in await request.text():
            await asyncio.Event().wait()
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    limits = RemoteLimits(request_seconds_max=0.3)
    async with server(hang_up) as site, remote(site.url, limits=limits) as engine:
        with pytest.raises(EngineUnavailable) as raised:
            await engine.generate(chat(model="m"))
        assert raised.value.died
        with pytest.raises(EngineUnavailable, match="request_seconds_max") as raised:
            await engine.generate(chat(model="m", user="slow"))
        assert not raised.value.died


async def test_an_answer_beyond_the_limit_is_refused() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"x" * 10_000)

    limits = RemoteLimits(answer_bytes_max=1_000)
    async with server(endless) as site, remote(site.url, limits=limits) as engine:
        with pytest.raises(EngineUnavailable, match="answer_bytes_max"):
            await engine.generate(chat(model="m"))


async def test_requests_that_others_send_to_an_upstream_are_seen_in_its_metrics() -> None:
    limits = RemoteLimits(metrics_every_seconds=0.02)
    answer = asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        await answer.wait()
        return web.json_response(ANSWER)

    async with server(slow) as site:
        site.metrics = 'vllm:num_requests_running{engine="0"} 5\nvllm:num_requests_waiting{engine="0"} 1\n'
        async with remote(site.url, limits=limits) as engine:
            await until(lambda: engine.load().elsewhere == 6)
            ours = asyncio.create_task(engine.generate(chat(model="m")))
            await until(lambda: engine.load().elsewhere == 5)
            assert (engine.load().running, engine.load().waiting) == (5, 1)
            answer.set()
            await ours
            site.metrics = "vllm:num_requests_running 0\n"
            await until(lambda: engine.load() == EngineLoad())


async def test_an_upstream_that_tells_no_load_shows_what_we_sent(caplog: pytest.LogCaptureFixture) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response(ANSWER)

    with caplog.at_level("INFO", logger="engine.remote"):
        async with server(answer) as site, remote(site.url) as engine:
            await until(lambda: "tells no load" in caplog.text)
            assert engine.load() == EngineLoad()
            assert (await engine.generate(chat(model="m"))).ok


async def test_priority_goes_along_only_when_asked_for() -> None:
    seen: list[Any] = []

    async def look(request: web.Request) -> web.Response:
        seen.append(await request.json())
        return web.json_response({"choices": [{"index": 0, "message": {}, "finish_reason": "stop"}]})

    async with server(look) as site:
        async with remote(site.url) as engine:
            await engine.generate(chat(model="m", priority=-1))
        async with remote(site.url, send_priority=True) as engine:
            await engine.generate(chat(model="m", priority=-1))
    assert "priority" not in seen[0]
    assert seen[1]["priority"] == 10


async def test_an_upstream_that_serves_nothing_we_may_use_does_not_start() -> None:
    async def never(request: web.Request) -> web.Response:
        raise AssertionError

    async with server(never) as site:
        engine = RemoteEngine("up", site.url, models=["x"])
        with pytest.raises(EngineStartError, match="none of the allowed models"):
            await engine.start()
    with pytest.raises(EngineStartError, match="Connect call failed"):
        await RemoteEngine("up", site.url).start()


@pytest.fixture
def front(tmp_path: Path) -> Iterator[FrontProcess]:
    process = FrontProcess(tmp_path, "--as-vllm", "generate", "--api-key", "sesame")
    process.start()
    yield process
    process.kill()


async def test_a_vllm_like_server_with_a_key_is_learnt(front: FrontProcess) -> None:
    with pytest.raises(EngineStartError, match="refuses our API key"):
        await RemoteEngine("up", front.url).start()
    async with remote(front.url, api_key="sesame") as engine:
        (model,) = engine.models()
        assert (model.id, model.kind, model.endpoints) == (CHAT_MODEL, ModelKind.GENERATE, GENERATE_ENDPOINTS)
        assert (await engine.generate(chat())).ok


async def test_an_upstream_that_falls_silent_fails_what_is_in_flight(front: FrontProcess) -> None:
    async with remote(front.url, api_key="sesame", limits=QUICK) as engine:
        flying = [asyncio.create_task(engine.generate(chat(n, max_tokens=4_000, ignore_eos=True))) for n in range(4)]
        await until(lambda: engine.load().running == 4)
        os.kill(front.pid, signal.SIGSTOP)
        outcomes = await asyncio.gather(*flying, return_exceptions=True)
        assert all(isinstance(outcome, EngineUnavailable) and outcome.died for outcome in outcomes)
        assert "did not answer" in (engine.status().reason or "")
        os.kill(front.pid, signal.SIGCONT)


async def test_with_one_of_two_upstreams_killed_every_line_is_answered(
    front: FrontProcess, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = FrontProcess(tmp_path_factory.mktemp("other"), "--as-vllm", "generate")
    other.start()
    engines = [
        Supervised(RemoteEngine("doomed", front.url, api_key="sesame", limits=QUICK), BACKOFF),
        Supervised(RemoteEngine("other", other.url, limits=QUICK), BACKOFF),
    ]
    registry = Registry(engines)
    changed = asyncio.Event()
    registry.on_change(changed.set)
    await registry.start()
    await until(lambda: len(registry.candidates(CHAT_MODEL)) == 2)

    async def run(number: int) -> tuple[str, bytes]:
        while True:
            engine = registry.pick(CHAT_MODEL)
            if engine is None:
                changed.clear()
                await changed.wait()
                continue
            try:
                return engine.name, (await engine.generate(chat(number, max_tokens=200, ignore_eos=True))).body
            except EngineUnavailable:
                await asyncio.sleep(0.01)

    flying = [asyncio.create_task(run(number)) for number in range(32)]
    await until(lambda: engines[0].load().running > 4)
    await asyncio.to_thread(front.kill)
    answers = await asyncio.gather(*flying)
    assert len({body for _, body in answers}) == 32
    assert {name for name, _ in answers} == {"other"}
    await asyncio.to_thread(front.start)
    await until(lambda: len(registry.candidates(CHAT_MODEL)) == 2)
    await registry.stop()
    other.kill()
