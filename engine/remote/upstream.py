"""HTTP to one upstream: the connection pool, the probe, the calls. Knows URLs and statuses, no engine states."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus

import aiohttp

from engine.protocol import EngineUnavailable
from engine.remote.settings import RemoteLimits

MODELS_PATH = "/v1/models"
HEALTH_PATH = "/health"
OPENAPI_PATH = "/openapi.json"


class ProbeFailed(Exception):
    """`certain`: the upstream said no, or nobody listens. Otherwise it was only silent."""

    def __init__(self, reason: str, *, certain: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.certain = certain


def root_of(url: str) -> str:
    """`http://host:8000`, `http://host:8000/` and `http://host:8000/v1` name the same server."""
    root = url.rstrip("/").removesuffix("/v1").rstrip("/")
    if not root.startswith(("http://", "https://")):
        raise ValueError(f"upstream URL {url!r} must begin with http:// or https://")
    return root


class Upstream:
    """One pool of connections, from `open` to `close`; closing it breaks every call in flight."""

    def __init__(self, url: str, api_key: str | None, limits: RemoteLimits) -> None:
        self.root = root_of(url)
        self._limits = limits
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._session = aiohttp.ClientSession(
            headers=headers,
            # Not limited here: callers keep inflight_requests_max, and a probe must never wait for a free connection.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=limits.idle_connection_seconds),
            timeout=aiohttp.ClientTimeout(
                total=limits.request_seconds_max, sock_connect=limits.connect_seconds_max, connect=None
            ),
            read_bufsize=256 * 1024,
        )

    async def close(self) -> None:
        await self._session.close()

    async def probe(self) -> bytes:
        """The body of the model list, if the upstream is well; raises ProbeFailed."""
        health, _ = await self._probe_get(HEALTH_PATH)
        if health >= HTTPStatus.INTERNAL_SERVER_ERROR and health != HTTPStatus.NOT_IMPLEMENTED:
            raise ProbeFailed(f"{self.root}{HEALTH_PATH} answered {health}", certain=True)
        status_code, body = await self._probe_get(MODELS_PATH)
        if status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise ProbeFailed(f"{self.root} refuses our API key ({status_code}): set api_key", certain=True)
        if status_code != HTTPStatus.OK:
            raise ProbeFailed(f"{self.root}{MODELS_PATH} answered {status_code}", certain=True)
        return body

    async def openapi(self) -> bytes:
        """The OpenAPI document, or nothing where there is none to be had."""
        try:
            status_code, body = await self._probe_get(OPENAPI_PATH)
        except ProbeFailed:
            return b""
        return body if status_code == HTTPStatus.OK else b""

    async def metrics(self) -> str:
        timeout = aiohttp.ClientTimeout(total=self._limits.metrics_seconds_max)
        async with self._session.get(self.root + "/metrics", timeout=timeout) as response:
            if response.status != HTTPStatus.OK:
                return ""
            return (await _read_bounded(response, self._limits.metrics_bytes_max)).decode(errors="replace")

    async def post(self, path: str, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        async with self._open(path, body) as response:
            return response.status, response.headers, await _read_bounded(response, self._limits.answer_bytes_max)

    @asynccontextmanager
    async def open_stream(self, path: str, body: bytes) -> AsyncIterator[aiohttp.ClientResponse]:
        async with self._open(path, body) as response:
            yield response

    def _open(self, path: str, body: bytes) -> aiohttp.client._RequestContextManager:
        return self._session.post(self.root + path, data=body, headers={"Content-Type": "application/json"})

    async def _probe_get(self, path: str) -> tuple[int, bytes]:
        timeout = aiohttp.ClientTimeout(
            total=self._limits.probe_seconds_max, sock_connect=self._limits.connect_seconds_max
        )
        try:
            async with self._session.get(self.root + path, timeout=timeout) as response:
                return response.status, await _read_bounded(response, self._limits.answer_bytes_max)
        except TimeoutError:
            raise ProbeFailed(f"{self.root} did not answer {path} in time", certain=False) from None
        except (aiohttp.ClientError, OSError) as error:
            raise ProbeFailed(f"{self.root}: {describe(error)}", certain=True) from None
        except RuntimeError:  # how aiohttp says that the session is closed
            if not self._session.closed:
                raise
            raise ProbeFailed(f"{self.root}: the connection was given up", certain=True) from None


class AnswerTooLong(Exception):
    pass


async def _read_bounded(response: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    if (response.content_length or 0) <= bytes_max:
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > bytes_max:
                break
        else:
            return bytes(body)
    raise AnswerTooLong(f"the answer is longer than answer_bytes_max ({bytes_max})")


async def frames_of(response: aiohttp.ClientResponse, bytes_max: int) -> AsyncIterator[bytes]:
    """Whole server-sent events, each with its blank line."""
    rest = b""
    async for chunk in response.content.iter_any():
        rest = (rest + chunk).replace(b"\r\n", b"\n")
        *events, rest = rest.split(b"\n\n")
        for event in events:
            if event:
                yield event + b"\n\n"
        if len(rest) > bytes_max:
            raise AnswerTooLong(f"a stream event is longer than frame_bytes_max ({bytes_max})")


CLIENT_ERRORS = (aiohttp.ClientError, OSError, TimeoutError, AnswerTooLong)


def unavailable(error: BaseException, what: str, *, stopping: bool) -> EngineUnavailable:
    """A client error as the protocol's. A connection that never stood is no death; one that broke in flight is, unless
    we broke it ourselves by stopping."""
    if isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)):
        return EngineUnavailable(f"{what}: {describe(error)}")
    if isinstance(error, TimeoutError):
        return EngineUnavailable(f"{what} gave no answer within request_seconds_max")
    if isinstance(error, AnswerTooLong):
        return EngineUnavailable(f"{what}: {error}")
    return EngineUnavailable(f"{what}: {describe(error)}", died=not stopping)


def describe(error: BaseException) -> str:
    """A client error in a few words: aiohttp's own text repeats host and TLS flags."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.strerror or "connection failed" if error.strerror != "None" else "connection failed"
    return str(error) or type(error).__name__
