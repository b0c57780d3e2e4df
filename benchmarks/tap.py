"""A clock for an upstream that we cannot look into: a proxy in a process of its own that writes down request times.

It is the same in both arms, so what it costs is the same too. It passes on what batch work needs (no streaming).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from aiohttp import ClientSession, ClientTimeout, TCPConnector, web

from benchmarks import engine_clock
from benchmarks.engine_clock import Finish, Window
from benchmarks.form import CouldNotMeasure
from benchmarks.server_process import ChildProcess, free_port

BODY_BYTES_MAX = 64 * 2**20
READY_SECONDS_MAX = 60
HEADERS_KEPT = frozenset({"content-type", "authorization"})


class Tap:
    """The proxy as a child process, from `with` to its end."""

    def __init__(self, upstream: str, folder: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/v1"
        self._log = folder / "tap.jsonl"
        self._child = ChildProcess(
            [
                *(sys.executable, "-P", "-m", "benchmarks.tap"),
                *("--upstream", upstream, "--port", str(port), "--log", str(self._log)),
            ],
            folder=folder,
            name="tap",
        )

    def window(self, *, requests: int) -> Window:
        finishes = engine_clock.read([self._log])
        if len(finishes) != requests:
            raise CouldNotMeasure(f"the upstream answered {len(finishes)} requests, the input has {requests} lines")
        return engine_clock.window_of(finishes)

    def __enter__(self) -> Tap:
        self._child.start()
        self._child.wait_for(f"{self.url}/models", READY_SECONDS_MAX)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._child.stop()


def finish_of(began_at: float, finished_at: float, answer: bytes) -> Finish:
    """Token counts are what the upstream says it used."""
    usage: dict[str, Any] = json.loads(answer).get("usage") or {}
    details: dict[str, Any] = usage.get("prompt_tokens_details") or {}
    return Finish(
        began_at=began_at,
        finished_at=finished_at,
        prompt_tokens=usage.get("prompt_tokens") or 0,
        cached_tokens=details.get("cached_tokens") or 0,
        output_tokens=usage.get("completion_tokens") or 0,
    )


def application(upstream: str, log: Path) -> web.Application:
    """Every POST that is answered 200 becomes a line of `log`, written at once."""
    file = log.open("a", encoding="ascii", buffering=1)

    async def session(app: web.Application) -> Any:
        async with ClientSession(connector=TCPConnector(limit=0), timeout=ClientTimeout(total=None)) as opened:
            app[SESSION] = opened
            yield
        file.close()

    async def forward(request: web.Request) -> web.Response:
        url = upstream.removesuffix("/v1").rstrip("/") + request.path_qs
        headers = {key: value for key, value in request.headers.items() if key.lower() in HEADERS_KEPT}
        body = await request.read()
        began_at = time.time()
        async with request.app[SESSION].request(request.method, url, data=body or None, headers=headers) as answer:
            content = await answer.read()
            finished_at = time.time()
            if request.method == "POST" and answer.status == web.HTTPOk.status_code:
                finish = finish_of(began_at, finished_at, content)
                file.write(json.dumps({name: getattr(finish, name) for name in Finish.__slots__}) + "\n")
            return web.Response(status=answer.status, body=content, content_type=answer.content_type)

    app = web.Application(client_max_size=BODY_BYTES_MAX)
    app.cleanup_ctx.append(session)
    app.router.add_route("*", "/{path:.*}", forward)
    return app


SESSION: web.AppKey[ClientSession] = web.AppKey("session", ClientSession)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tap", description=__doc__)
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--port", required=True, type=int)
    parser.add_argument("--log", required=True, type=Path)
    asked = parser.parse_args(argv)
    web.run_app(application(asked.upstream, asked.log), host="127.0.0.1", port=asked.port, print=None)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
