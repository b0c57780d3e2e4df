"""A small model server in a process of its own: a simulated engine behind HTTP, with vLLM's manners.

`python -m tests.engine.conformance.front PORT_FILE [--as-vllm KIND] [--port N]` writes its port to PORT_FILE.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

from aiohttp import web

from engine.answers import error_result
from engine.protocol import (
    GENERATE_ENDPOINTS,
    POOLING_ENDPOINTS,
    EngineOverloaded,
    EngineRequest,
    EngineUnavailable,
    StreamRejected,
)
from engine.simulated import PROFILES, SimulatedEngine, SimulatedFaults

ABORT, OVERLOAD, POISON = "abort me", "overload me", "kill me"
FAULTS = SimulatedFaults(abort_marker=ABORT, overload_marker=OVERLOAD, poison=POISON)
TIME_SCALE = 0.02
_ABORTED: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "I was"}, "finish_reason": "abort"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
}


class Front:
    def __init__(self, engine: SimulatedEngine, as_vllm: str | None, api_key: str | None) -> None:
        self._engine = engine
        self._as_vllm = as_vllm
        self._api_key = api_key

    def app(self) -> web.Application:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_get("/health", self.health)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/openapi.json", self.openapi)
        for endpoint in GENERATE_ENDPOINTS | POOLING_ENDPOINTS:
            app.router.add_post(endpoint, self.generate)
        return app

    async def health(self, request: web.Request) -> web.Response:
        return web.Response(status=200)

    async def metrics(self, request: web.Request) -> web.Response:
        return web.Response(text=await self._engine.metrics())

    async def models(self, request: web.Request) -> web.Response:
        if self._api_key and request.headers.get("Authorization") != f"Bearer {self._api_key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        listed = []
        for model in self._engine.models():
            card = {"id": model.id, "object": "model", "created": model.created_at, "max_model_len": 8192}
            if self._as_vllm is None:
                card |= {"kind": model.kind, "endpoints": sorted(model.endpoints), "revision": model.revision}
            elif model.kind != self._as_vllm:
                continue
            listed.append(card | {"owned_by": "vllm", "root": f"org/{model.id}"})
        return web.json_response({"object": "list", "data": listed})

    async def openapi(self, request: web.Request) -> web.Response:
        if self._as_vllm is None:
            return web.Response(status=404)
        endpoints = GENERATE_ENDPOINTS if self._as_vllm == "generate" else POOLING_ENDPOINTS
        return web.json_response({"openapi": "3.1.0", "paths": {endpoint: {} for endpoint in endpoints}})

    async def generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        fields = json.loads(body)
        assert "priority" not in fields
        asked = EngineRequest("x", fields["model"], request.path, body)
        try:
            if fields.get("stream"):
                return await self._stream(request, asked)
            result = await self._engine.generate(asked)
        except EngineOverloaded:
            return web.Response(status=429, headers={"Retry-After": "0.5"}, body=error_result(429, "later").body)
        except EngineUnavailable as error:
            if not error.died:
                return web.json_response(_ABORTED)
            raise SystemExit(1) from None
        return web.Response(status=result.status_code, body=result.body, content_type="application/json")

    async def _stream(self, request: web.Request, asked: EngineRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        try:
            async for frame in self._engine.stream(asked):
                if not response.prepared:
                    await response.prepare(request)
                await response.write(frame)
        except StreamRejected as rejected:
            return web.Response(status=rejected.result.status_code, body=rejected.result.body)
        return response


async def serve(arguments: argparse.Namespace) -> None:
    engine = SimulatedEngine("front", PROFILES["cpu-135m"], faults=FAULTS, time_scale=TIME_SCALE)
    await engine.start()
    front = Front(engine, arguments.as_vllm, arguments.api_key)
    runner = web.AppRunner(front.app(), handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", arguments.port)
    await site.start()
    port = runner.addresses[0][1]
    arguments.port_file.with_suffix(".new").write_text(str(port))
    arguments.port_file.with_suffix(".new").rename(arguments.port_file)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port_file", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--as-vllm", choices=["generate", "pooling"])
    parser.add_argument("--api-key")
    asyncio.run(serve(parser.parse_args()))
