"""The outermost layer: a request id, the time taken, one access line, and a 500 that shows nothing of its cause."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server import errors, metrics
from server.ids import TokenSource, new_request_id

CLIENT_CLOSED_STATUS = 499
"""As nginx logs a client that went away before the answer; never sent."""

PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked every few seconds by machines: logged only when debugging."""

access = logging.getLogger("nightbatch.http")


class RequestEnvelope:
    """Pure ASGI, so that bodies stream through it and a disconnect reaches the handler at once."""

    def __init__(self, app: ASGIApp, token: TokenSource, clock: Callable[[], float] = time.perf_counter) -> None:
        self._app = app
        self._token = token
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, send, new_request_id(self._token), self._clock)
        scope.setdefault("state", {})["request_id"] = exchange.request_id
        try:
            await self._app(scope, receive, exchange.send)
        except ClientDisconnect:
            exchange.status = CLIENT_CLOSED_STATUS
        except Exception:
            access.exception("unexpected error", extra={"request_id": exchange.request_id})
            if exchange.status is not None:
                raise  # the reply has begun: only closing the connection tells the client that it is not whole
            await errors.envelope(errors.internal(exchange.request_id))(scope, receive, exchange.send)
        finally:
            exchange.finish()


class _Exchange:
    def __init__(self, scope: Scope, send: Send, request_id: str, clock: Callable[[], float]) -> None:
        self.request_id = request_id
        self.status: int | None = None
        self._scope = scope
        self._send = send
        self._clock = clock
        self._started = clock()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            elapsed_ms = (self._clock() - self._started) * 1000
            message["headers"] = [
                *message.get("headers", ()),
                (b"x-request-id", self.request_id.encode()),
                (b"openai-processing-ms", str(round(elapsed_ms)).encode()),
            ]
        await self._send(message)

    def finish(self) -> None:
        seconds = self._clock() - self._started
        status = self.status if self.status is not None else CLIENT_CLOSED_STATUS
        method = self._scope["method"]
        metrics.observe_request(route_of(self._scope), method, status, seconds)
        access.log(
            logging.DEBUG if self._scope["path"] in PROBES else logging.INFO,
            "request",
            extra={
                "request_id": self.request_id,
                "method": method,
                "path": self._path(),
                "status": status,
                "ms": round(seconds * 1000, 1),
                "tenant": self._scope.get("state", {}).get("tenant"),
            },
        )

    def _path(self) -> str:
        """As it was sent, percent-encoded: a log line stays one line whatever the client asks for. No query string."""
        raw: bytes = self._scope.get("raw_path") or self._scope["path"].encode("utf-8", "backslashreplace")
        return raw.partition(b"?")[0].decode("ascii", "backslashreplace")[:512]


def route_of(scope: Scope) -> str:
    """The route's template, never the path: a metric's label must not grow with the ids that clients ask for."""
    return getattr(scope.get("route"), "path", None) or "unmatched"
