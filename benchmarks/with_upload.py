"""What else a server does while people chat: a large upload, batches that are taken in and composed, a download.

All three go on in a process of its own, niced, for as long as it is let: `Transfers.lasting` around what is measured,
or by hand beside any running server:

    python -m benchmarks.with_upload --url http://127.0.0.1:8000/v1 --seconds 60

The batches cost the engines nothing: every line names a model that nobody serves, so that intake writes an error for
each of them and finalize composes those.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
import openai

from benchmarks import client, intake_lines
from benchmarks.form import CouldNotMeasure

MIB = 2**20
UPLOAD_BYTES = 1024 * MIB
LINE_BYTES = 1_024
DOWNLOAD_LINES = 131_072
BATCH_LINES = 8_192
"""So few that batches end within a short window."""

NOBODY = "a-model-that-nobody-serves"
NICENESS = 5
END_SECONDS_MAX = 30.0
POLL_SECONDS = 0.1
BOUNDARY = "nightbatch-with-upload"
HEAD = (
    f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="file"; filename="large.jsonl"\r\n\r\n'
).encode()
TAIL = f"\r\n--{BOUNDARY}--\r\n".encode()


@dataclass(slots=True)
class Moved:
    """What went through the server, in bytes of files as they are stored."""

    seconds: float = 0.0
    uploaded_bytes: int = 0
    composed_bytes: int = 0
    downloaded_bytes: int = 0
    uploads: int = 0
    batches: int = 0
    client_cpu_seconds: float = 0.0

    @property
    def mib(self) -> float:
        return (self.uploaded_bytes + self.composed_bytes + self.downloaded_bytes) / MIB


class Transfers:
    """Puts its files on the server once; each `lasting` then moves as much as the server lets it."""

    def __init__(self, api: openai.OpenAI, folder: Path) -> None:
        self._url = str(api.base_url)
        self._key = api.api_key
        self.batch_file = _uploaded(api, folder, BATCH_LINES)
        self.download_file = _uploaded(api, folder, DOWNLOAD_LINES)

    @contextmanager
    def lasting(self) -> Iterator[Callable[[], Moved]]:
        """The callable ends the transfers and says what was moved; leaving ends them too."""
        files = ["--batch-file", self.batch_file, "--download-file", self.download_file]
        arguments = ["--url", self._url, "--key", self._key, *files]
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "benchmarks.with_upload", *arguments],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parent.parent,
        )
        told: list[bytes] = []

        def end() -> Moved:
            if not told:
                process.send_signal(signal.SIGTERM)
                try:
                    told.append(process.communicate(timeout=END_SECONDS_MAX)[0])
                except subprocess.TimeoutExpired:
                    process.kill()
                    told.append(process.communicate()[0])
            if process.returncode != 0:
                raise CouldNotMeasure(f"the transfers ended with exit status {process.returncode}")
            return Moved(**json.loads(told[0]))

        try:
            yield end
        finally:
            if not told:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()


class _Mover:
    def __init__(
        self, session: aiohttp.ClientSession, *, batch_file: str, download_file: str, upload_bytes: int
    ) -> None:
        self._session = session
        self._batch_file = batch_file
        self._download_file = download_file
        self._upload_bytes = upload_bytes
        self.moved = Moved()

    async def upload(self) -> None:
        headers = {
            "content-type": f"multipart/form-data; boundary={BOUNDARY}",
            "content-length": str(len(HEAD) + self._file_bytes + len(TAIL)),
        }
        async with self._session.post("files", data=self._body(), headers=headers) as answer:
            file = await _checked(answer)
        self.moved.uploads += 1
        await self._delete(file["id"])

    async def compose(self) -> None:
        """Take a batch of nothing but errors in, and have its error file composed."""
        asked = {
            "input_file_id": self._batch_file,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "on_invalid_line": "report",
        }
        async with self._session.post("batches", json=asked) as answer:
            batch = await _checked(answer)
        try:
            while batch["status"] not in client.TERMINAL:
                await asyncio.sleep(POLL_SECONDS)
                async with self._session.get(f"batches/{batch['id']}") as answer:
                    batch = await _checked(answer)
        except asyncio.CancelledError:
            async with self._session.post(f"batches/{batch['id']}/cancel"):
                raise
        if batch["error_file_id"] is None:
            raise CouldNotMeasure(f"a batch of {self._batch_file} ended as {batch['status']}, without an error file")
        async with self._session.get(f"files/{batch['error_file_id']}") as answer:
            self.moved.composed_bytes += (await _checked(answer))["bytes"]
        self.moved.batches += 1
        await self._delete(batch["error_file_id"])

    async def download(self) -> None:
        headers = {"accept-encoding": "identity"}
        async with self._session.get(f"files/{self._download_file}/content", headers=headers) as answer:
            answer.raise_for_status()
            async for piece in answer.content.iter_any():
                self.moved.downloaded_bytes += len(piece)

    @property
    def _file_bytes(self) -> int:
        return self._upload_bytes // LINE_BYTES * LINE_BYTES

    async def _body(self) -> AsyncIterator[bytes]:
        yield HEAD
        for chunk in intake_lines.chunks(self._file_bytes // LINE_BYTES, model=NOBODY, line_bytes=LINE_BYTES):
            yield chunk
            self.moved.uploaded_bytes += len(chunk)
        yield TAIL

    async def _delete(self, file_id: str) -> None:
        async with self._session.delete(f"files/{file_id}") as answer:
            await _checked(answer)


async def move(
    url: str, *, key: str, batch_file: str, download_file: str, upload_bytes: int, seconds: float | None
) -> Moved:
    """Until SIGTERM, or for so many seconds."""
    stopped, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    began = time.perf_counter()
    async with aiohttp.ClientSession(
        base_url=url.rstrip("/") + "/",
        headers={"authorization": f"Bearer {key}"},
        timeout=aiohttp.ClientTimeout(total=None),
    ) as session:
        mover = _Mover(session, batch_file=batch_file, download_file=download_file, upload_bytes=upload_bytes)
        steps = (mover.upload, mover.compose, mover.download)
        tasks = [asyncio.create_task(_forever(step)) for step in steps]
        stop = asyncio.create_task(stopped.wait())
        done, _ = await asyncio.wait({stop, *tasks}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        mover.moved.seconds = time.perf_counter() - began
        for task in (stop, *tasks):
            task.cancel()
        await asyncio.gather(stop, *tasks, return_exceptions=True)
        for task in done - {stop}:
            task.result()
    mover.moved.client_cpu_seconds = time.process_time()
    return mover.moved


def _uploaded(api: openai.OpenAI, folder: Path, lines: int) -> str:
    path = folder / "transfers.jsonl"
    intake_lines.write(path, lines, model=NOBODY, line_bytes=LINE_BYTES)
    file_id = client.upload(api, path)
    path.unlink()
    return file_id


async def _forever(step: Callable[[], Any]) -> None:
    while True:
        await step()


async def _checked(answer: aiohttp.ClientResponse) -> dict[str, Any]:
    found: dict[str, Any] = await answer.json()
    if answer.status != 200:
        raise CouldNotMeasure(f"{answer.method} {answer.url.path} was answered {answer.status}: {found}")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Upload, compose and download beside whatever else a server does.")
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--key", default="not-needed")
    parser.add_argument("--batch-file", help="id of a file of lines for a model that nobody serves")
    parser.add_argument("--download-file", help="id of the file to download; both are made if not given")
    parser.add_argument("--upload-mib", type=int, default=UPLOAD_BYTES // MIB)
    parser.add_argument("--seconds", type=float, help="until SIGTERM if not given")
    given = parser.parse_args(arguments)
    os.nice(NICENESS)
    batch_file, download_file = given.batch_file, given.download_file
    if batch_file is None or download_file is None:
        with tempfile.TemporaryDirectory(prefix="nightbatch-bench-") as folder:
            api = openai.OpenAI(base_url=given.url, api_key=given.key, max_retries=0, timeout=600)
            made = Transfers(api, Path(folder))
        batch_file, download_file = made.batch_file, made.download_file
    with suppress(KeyboardInterrupt):
        moved = asyncio.run(
            move(
                given.url,
                key=given.key,
                batch_file=batch_file,
                download_file=download_file,
                upload_bytes=given.upload_mib * MIB,
                seconds=given.seconds,
            )
        )
        print(json.dumps(asdict(moved)), flush=True)


if __name__ == "__main__":
    main()
