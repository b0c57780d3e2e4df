"""A body that stops arriving: the request ends with 408, so that it holds no handler, file or connection for ever."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import ApiError

SETTING = "body_silence_seconds_max"


class BodySilence:
    """Only silence counts, and only while a handler waits for bytes: a slow upload, or one that the server itself holds
    up, may take as long as it takes."""

    def __init__(self, app: ASGIApp, seconds_max: float) -> None:
        self._app = app
        self._seconds_max = seconds_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        arriving = True

        async def receive_in_time() -> Message:
            nonlocal arriving
            if not arriving:
                return await receive()  # what comes now is the disconnect, whenever the client wants
            try:
                async with asyncio.timeout(self._seconds_max):
                    message = await receive()
            except TimeoutError:
                raise self._silent() from None
            arriving = message["type"] == "http.request" and message.get("more_body", False)
            return message

        await self._app(scope, receive_in_time, send)

    def _silent(self) -> ApiError:
        """The rest of the body may still come: the connection cannot be used for another request."""
        return ApiError(
            408,
            f"The request body stopped arriving: no byte of it came for {self._seconds_max:g} s ({SETTING}). "
            "Send the request again.",
            code="request_timeout",
            headers={"connection": "close"},
        )
