"""A real store on disk, simulated engines, and the application over them: in this process or behind a real socket."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx2
import uvicorn
from fastapi import FastAPI
from openai import AsyncOpenAI

from engine.protocol import Engine, EngineState
from engine.registry import Registry
from engine.simulated import PROFILES, SimulatedEngine, default_models
from server.app import create_app
from server.parsing import EnvelopeHttpProtocol
from server.settings import ServerSettings
from server.tenants import Tenants
from store.settings import GIB, StoreSettings
from store.store import Store, open_store

PROFILE = PROFILES["gpu-8b"]
CHAT, EMBED = (model.id for model in default_models(PROFILE))


@dataclass
class House:
    """One server, as its parts. `free_bytes` is what the disk claims to have left; `wakes` counts calls of `wake`."""

    folder: Path
    store: Store
    registry: Registry
    settings: ServerSettings
    free_bytes: list[int]
    app: FastAPI = field(init=False)
    wakes: list[None] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def http(self, **options: Any) -> httpx2.AsyncClient:
        transport = httpx2.ASGITransport(app=self.app)
        return httpx2.AsyncClient(transport=transport, base_url="http://server/v1", **options)

    def sdk(self, *, api_key: str = "any", retries: int = 0, strict: bool = True) -> AsyncOpenAI:
        return AsyncOpenAI(
            api_key=api_key,
            base_url="http://server/v1",
            http_client=self.http(),
            max_retries=retries,
            _strict_response_validation=strict,
        )

    def leftovers(self) -> list[str]:
        """Every file of the data folder that holds bytes of an upload."""
        return sorted(
            str(path.relative_to(self.folder))
            for part in ("tmp", "blobs")
            for path in (self.folder / part).rglob("*")
            if path.is_file()
        )


class HouseBuilder(Protocol):
    async def __call__(self, **options: Any) -> House: ...


async def build_house(
    folder: Path,
    stack: AsyncExitStack,
    *,
    engines: Sequence[Engine] | None = None,
    aliases: dict[str, str] | None = None,
    settings: ServerSettings | None = None,
    store_settings: StoreSettings | None = None,
    tenants: Tenants | None = None,
    started: bool = True,
) -> House:
    free_bytes = [1024 * GIB]
    store = await open_store(folder, settings=store_settings or StoreSettings(), free_bytes_of=lambda _: free_bytes[0])
    stack.push_async_callback(store.close)
    registry = Registry([SimulatedEngine("sim", PROFILE)] if engines is None else engines, aliases)
    if started:
        await start(registry)
    stack.push_async_callback(registry.stop)
    house = House(folder, store, registry, settings or ServerSettings(), free_bytes)
    house.app = create_app(
        store=store,
        registry=registry,
        wake=lambda: house.wakes.append(None),
        tenants=tenants or Tenants(),
        settings=house.settings,
        ready=lambda: tuple(house.reasons),
    )
    return house


async def start(registry: Registry) -> None:
    """Start every engine and wait until each is ready."""
    ready = asyncio.Event()

    def check() -> None:
        if all(engine.status().state is EngineState.READY for engine in registry.engines()):
            ready.set()

    registry.on_change(check)
    await registry.start()
    check()
    await asyncio.wait_for(ready.wait(), 10)


@asynccontextmanager
async def listening(app: FastAPI) -> AsyncIterator[str]:
    """The application behind a real socket, on this event loop. Yields the base URL, with `/v1`."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)  # a connection waits for the server instead of being refused
        port = listener.getsockname()[1]
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=EnvelopeHttpProtocol,
                log_config=None,
                lifespan="off",
                ws="none",
                timeout_graceful_shutdown=5,
            )
        )
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.should_exit = True
            await serving


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for something that another task or thread brings about; a condition, never a guess about time."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 (what is awaited has no event)
            await asyncio.sleep(0.005)


def line(custom_id: str, model: str = CHAT, **body: Any) -> bytes:

    request = {
        "custom_id": custom_id,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": model, "messages": [{"role": "user", "content": "Hello"}], **body},
    }
    return json.dumps(request).encode() + b"\n"


def form(
    data: bytes | None, *, purpose: str | None = "batch", filename: str = "in.jsonl", file_first: bool = False
) -> list[tuple[str, Any]]:
    """The parts of an upload for httpx2's `files`, in the order asked for; None leaves a part out."""
    parts: list[tuple[str, Any]] = []
    if purpose is not None:
        parts.append(("purpose", (None, purpose)))
    if data is not None:
        parts.append(("file", (filename, data, "application/octet-stream")))
    return parts[::-1] if file_first else parts
