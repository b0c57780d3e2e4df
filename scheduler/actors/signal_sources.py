"""Where an outside signal is read: a URL or a file. Small texts, within a bounded time, off the event loop."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import aiohttp

from scheduler.actors.webhooks import OwnResolver, public_socket
from scheduler.policy.outside_signal import Unreadable

TEXT_BYTES_MAX = 256 * 1024
"""What is longer is no signal but a download."""


class Source(Protocol):
    async def read(self) -> str:
        """The whole text now. Unreadable when it cannot be had."""
        ...

    async def close(self) -> None: ...


class UrlSource:
    """One GET, without redirects and without a proxy of the environment. Only public addresses, as for webhooks, unless
    `allow_private`."""

    def __init__(self, url: str, *, headers: Mapping[str, str], allow_private: bool, seconds_max: float) -> None:
        self._url = url
        self._headers = {"user-agent": f"Nightbatch/{version('nightbatch')}", "accept-encoding": "identity", **headers}
        self._allow_private = allow_private
        self._seconds_max = seconds_max
        self._resolver: OwnResolver | None = None
        self._session: aiohttp.ClientSession | None = None

    async def read(self) -> str:
        try:
            async with self._open().get(self._url, allow_redirects=False) as answer:
                if 300 <= answer.status < 400:
                    raise Unreadable(f"it answered {answer.status}, a redirect, which is not followed")
                if answer.status != 200:
                    raise Unreadable(f"it answered {answer.status}")
                return await _text_of(answer)
        except TimeoutError:
            raise Unreadable(f"no answer within {self._seconds_max:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Unreadable(str(error) or type(error).__name__) from error

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
        if self._resolver is not None:
            await self._resolver.close()

    def _open(self) -> aiohttp.ClientSession:
        """Made on the loop that uses it."""
        if self._session is None:
            factory = None if self._allow_private else partial(public_socket, what="the signal")
            self._resolver = OwnResolver()
            connector = aiohttp.TCPConnector(
                socket_factory=factory, use_dns_cache=False, resolver=self._resolver, force_close=True
            )
            timeout = aiohttp.ClientTimeout(total=self._seconds_max)
            self._session = aiohttp.ClientSession(
                connector=connector, timeout=timeout, trust_env=False, headers=self._headers
            )
        return self._session


class FileSource:
    """`seconds_max` bounds a read, which can hang on a network's disk; `age_seconds_max` how long ago the file was
    written (None: it may be as old as it is)."""

    def __init__(
        self, path: Path, *, age_seconds_max: float | None, seconds_max: float, now: Callable[[], float]
    ) -> None:
        self._path = path
        self._age_seconds_max = age_seconds_max
        self._seconds_max = seconds_max
        self._now = now
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="signal")

    async def read(self) -> str:
        look = partial(_read_file, self._path, self._age_seconds_max, self._now())
        try:
            async with asyncio.timeout(self._seconds_max):
                return await asyncio.get_running_loop().run_in_executor(self._thread, look)
        except TimeoutError:
            raise Unreadable(f"the file could not be read within {self._seconds_max:g} s") from None
        except OSError as error:
            raise Unreadable(f"the file cannot be read: {error.strerror}") from error

    async def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


async def _text_of(answer: aiohttp.ClientResponse) -> str:
    found = bytearray()
    async for piece in answer.content.iter_any():
        found += piece
        if len(found) > TEXT_BYTES_MAX:
            raise Unreadable(f"it answered more than {TEXT_BYTES_MAX:,} bytes")
    return found.decode("utf-8", "replace")


def _read_file(path: Path, age_seconds_max: float | None, now: float) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe without a writer must not hold us up
    with os.fdopen(fd, "rb") as file:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode):
            raise Unreadable("it is no regular file")
        if age_seconds_max is not None and now - about.st_mtime > age_seconds_max:
            raise Unreadable(f"the file was last written more than {age_seconds_max:g} s ago")
        data = file.read(TEXT_BYTES_MAX + 1)
    if len(data) > TEXT_BYTES_MAX:
        raise Unreadable(f"the file has more than {TEXT_BYTES_MAX:,} bytes")
    return data.decode("utf-8", "replace")
