"""The life of one server process: open, start, serve, drain, stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping

import prometheus_client
import uvicorn

from nightbatch import logs
from nightbatch.banner import print_banner
from nightbatch.compose import House, compose
from nightbatch.config import Config, ConfigError
from nightbatch.config.tiers import doubtful
from nightbatch.narration import EngineNarrator
from server.parsing import EnvelopeHttpProtocol
from store import markers
from store.allocator import keep_freed_memory
from store.records import StoreError

log = logging.getLogger(__name__)

EXIT_REFUSED = 2
SWITCH_SECONDS = 0.0005
"""How long a thread keeps the interpreter to itself while others wait: a tenth of Python's own choice. Each step of an
online answer waits for as long where a thread works on a file."""
BACKLOG_CONNECTIONS_MAX = 2048
CLOSE_SECONDS_MAX = 5
"""How long open connections (a slow upload, a stream) hold up the end of a stopping server."""


class _Listener(uvicorn.Server):
    """uvicorn without its own signal handling: the order in which the parts stop is ours."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run_server(
    config: Config,
    environment: Mapping[str, str] | None = None,
    *,
    joined: Callable[[House], None] | None = None,
) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit code. A second signal while draining ends it at once.

    `joined` gets the parts before they run, on the event loop: a benchmark looks into them.
    """
    environment = os.environ if environment is None else environment
    logs.configure(config.logging.level, config.logging.format)
    keep_freed_memory()
    sys.setswitchinterval(SWITCH_SECONDS)
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    if where := environment.get("NIGHTBATCH_KILL_AT"):
        install_kill(where)
    try:
        listening = _listen(config.server.host, config.server.port)
    except OSError as error:
        return _refuse(
            f"cannot listen on {config.server.host}:{config.server.port}: {error.strerror}. "
            "Is another server running there? Choose another with --port."
        )
    import uvloop

    try:
        return uvloop.run(_serve(config, listening, environment, joined))
    except (StoreError, ConfigError) as error:
        return _refuse(str(error))
    finally:
        listening.close()


def install_kill(where: str) -> None:
    """`NIGHTBATCH_KILL_AT=marker[:n]`: SIGKILL for ourselves at the n-th passing of a marker (store/markers.py). For
    crash tests, here and on an installation that wants to see it for itself."""
    name, _, count = where.partition(":")
    if name not in markers.MARKERS:
        raise SystemExit(f"NIGHTBATCH_KILL_AT: no marker {name!r}; known: {', '.join(markers.MARKERS)}")
    left = int(count or 1)

    def kill(reached: str) -> None:
        nonlocal left
        if reached == name:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    markers.install(kill)


async def _serve(
    config: Config,
    listening: socket.socket,
    environment: Mapping[str, str],
    joined: Callable[[House], None] | None,
) -> int:
    for doubt in doubtful(config.tiers):
        log.warning(doubt)
    house = await compose(config, environment=environment)
    try:
        if joined is not None:
            joined(house)
        print_banner(config, house.fleet, _url(listening))
        return await _run(house, listening, drain_seconds=config.server.drain_seconds)
    finally:
        await house.registry.stop()
        await house.store.close()


async def _run(house: House, listening: socket.socket, *, drain_seconds: float) -> int:
    listener = _Listener(
        uvicorn.Config(
            house.app,
            http=EnvelopeHttpProtocol,
            log_config=None,
            access_log=False,
            lifespan="off",
            backlog=BACKLOG_CONNECTIONS_MAX,
            timeout_graceful_shutdown=CLOSE_SECONDS_MAX,
        )
    )
    stop_asked = _on_signals()
    house.registry.on_change(EngineNarrator(house.registry, time.time).look)
    await house.registry.start()
    preparing = asyncio.create_task(_prepare(house), name="prepare")
    serving = asyncio.create_task(listener.serve(sockets=[listening]), name="http")
    scheduling = asyncio.create_task(house.scheduler.run(), name="scheduler")
    asked = asyncio.create_task(stop_asked.wait(), name="signals")
    done, _ = await asyncio.wait({serving, scheduling, asked}, return_when=asyncio.FIRST_COMPLETED)
    if asked in done:
        log.info("stopping: requests in flight have %.0f s to finish; a second signal ends at once", drain_seconds)
    await house.scheduler.stop(drain_seconds)
    listener.should_exit = True
    asked.cancel()
    outcomes = await asyncio.gather(serving, scheduling, preparing, return_exceptions=True)
    failures = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    for failure in failures:
        log.error("a part of the server ended unexpectedly", exc_info=failure)
    if not failures:
        log.info("stopped; nothing is lost, the next start goes on")
    return 1 if failures else 0


async def _prepare(house: House) -> None:
    """What the first upload would otherwise wait for."""
    try:
        await house.store.uploads.prepare()
    except OSError as error:
        log.warning("no index worker could be started: %s; the first upload tries again", error)


def _on_signals() -> asyncio.Event:
    """Set at the first SIGINT or SIGTERM; the second ends the process at once, which a crash-safe store allows."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    def received(number: signal.Signals) -> None:
        if asked.is_set():
            os._exit(128 + number)
        asked.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, received, number)
    return asked


def _listen(host: str, port: int) -> socket.socket:
    """Bound before anything slow starts, so that a taken port is said at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError:
        listening.close()
        raise
    return listening


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    shown = "127.0.0.1" if host in {"0.0.0.0", "::"} else host  # noqa: S104 (compared, not bound)
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


def _refuse(message: str) -> int:
    print(f"nightbatch: {message}", file=sys.stderr)
    return EXIT_REFUSED
