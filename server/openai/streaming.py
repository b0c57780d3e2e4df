"""A stream of server-sent events, from an engine to one client."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast

import msgspec
from fastapi import Response
from starlette.types import Receive, Scope, Send

from engine.protocol import Engine, EngineError, EngineResult, StreamRejected
from server import metrics
from server.context import Api
from server.disconnect import unless_gone
from server.openai.dispatch import try_engines
from server.openai.online_call import OnlineCall
from server.openai.service_tier import stamped_frame
from server.openai.token_times import TokenTimes

log = logging.getLogger("nightbatch.online")

STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class EventStream(Response):
    """Runs the whole exchange: the status is known only with the first frame, and until then another engine may take
    the request. One task drives the engine's generator from first to last; it is closed when the client goes away."""

    def __init__(self, api: Api, call: OnlineCall) -> None:
        super().__init__()
        self._api = api
        self._call = call
        self._started = time.perf_counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with metrics.online(self._call.endpoint, flex=self._call.flex) as outcome:
            refused = await unless_gone(receive, self._run(send))
            if refused is not None:
                outcome.rejected()
                await answer(refused)(scope, receive, send)

    async def _run(self, send: Send) -> EngineResult | None:
        async def attempt(engine: Engine, number: int) -> EngineResult | None:
            return await self._forward(engine, number, send)

        return await try_engines(self._api, self._call, attempt)

    async def _forward(self, engine: Engine, number: int, send: Send) -> EngineResult | None:
        """Pass the frames on. Returns the engine's refusal; raises EngineError only while nothing has been sent."""
        begun = False
        times = self._times(engine)
        frames = cast("AsyncGenerator[bytes, None]", engine.stream(self._call.request(number)))
        try:
            async with aclosing(frames):
                async for frame in frames:
                    if times is not None:
                        times.came(frame)
                    if not begun:
                        begun = True
                        await send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})
                    stamped = stamped_frame(frame, self._call.service_tier)
                    await send({"type": "http.response.body", "body": stamped, "more_body": True})
                    if times is not None:
                        times.sent()
        except StreamRejected as refusal:
            return refusal.result
        except EngineError as error:
            if not begun:
                raise
            log.warning("stream broken off: %s", error, extra={"engine": engine.name, "model": self._call.model.id})
            await send({"type": "http.response.body", "body": _broken(error), "more_body": True})
        if not begun:
            await send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return None

    def _times(self, engine: Engine) -> TokenTimes | None:
        """None for what waits for others on purpose, and for several answers in one stream."""
        call = self._call
        if call.flex or call.sub_requests > 1:
            return None
        meter = self._api.registry.meter
        return TokenTimes(meter, engine=engine.name, endpoint=call.endpoint, started=self._started)


def answer(result: EngineResult) -> Response:
    return Response(result.body, status_code=result.status_code, media_type="application/json")


def _broken(error: EngineError) -> bytes:
    """The status is long sent: an error event is what OpenAI's clients raise from. No `[DONE]` follows."""
    body = {"error": {"message": f"The stream broke off: {error}", "type": "server_error", "param": None,
                      "code": "engine_unavailable"}}  # fmt: skip
    return b"data: " + msgspec.json.encode(body) + b"\n\n"
