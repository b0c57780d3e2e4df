"""A batch server seen from the command: the official `openai` package with progress, resumed downloads, plain errors.

Works against Nightbatch and against any server that speaks the same API.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import httpx2
import openai
from openai.types import Batch, FileObject, Model

from nightbatch.target import Target

T = TypeVar("T")

DOWNLOAD_ATTEMPTS_MAX = 5
"""Connections in a row that may break without a byte."""
PAGE_BATCHES_MAX = 100

OnBytes = Callable[[int], None]
"""Told how many bytes have gone so far; it may go back when a transfer starts again."""


class ClientError(Exception):
    """What went wrong between us and the server, in one line. `status_code` is None when there was no answer."""

    def __init__(self, message: str, *, status_code: int | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.code = code

    @property
    def unreachable(self) -> bool:
        return self.status_code is None


class CountedFile(io.FileIO):
    """A file that says how far it has been read: the openai package streams it part by part."""

    def __init__(self, path: Path, on_bytes: OnBytes) -> None:
        super().__init__(path, "rb")
        self._on_bytes = on_bytes

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(-1 if size is None else size)
        self._on_bytes(self.tell())
        return data or b""


LINE_ERRORS_HEADER = "x-nightbatch-line-errors"


@dataclass(frozen=True, slots=True)
class Uploaded:
    """`broken_lines` is what the server found wrong with the form of lines while they came in; 0 from other servers."""

    file: FileObject
    broken_lines: int


NEXT_CURSOR_HEADER = "x-nightbatch-next-cursor"
BATCH_STATUS_HEADER = "x-nightbatch-batch-status"


@dataclass(frozen=True, slots=True)
class LivePage:
    """Whole lines, perhaps none, where the next page starts, and the status of the batch."""

    lines: str
    cursor: str
    status: str


class Client:
    def __init__(self, target: Target, *, retries_max: int = 2, timeout_seconds: float = 600.0) -> None:
        self.target = target
        self.openai = openai.OpenAI(
            base_url=f"{target.url}/v1",
            api_key=target.api_key or "none",
            max_retries=retries_max,
            timeout=openai.Timeout(timeout_seconds, connect=5.0),
        )

    def close(self) -> None:
        self.openai.close()

    def upload(self, path: Path, on_bytes: OnBytes) -> Uploaded:
        with self._plain_errors(), CountedFile(path, on_bytes) as file:
            answer = self.openai.files.with_raw_response.create(file=(path.name, file), purpose="batch")
            return Uploaded(answer.parse(), int(answer.headers.get(LINE_ERRORS_HEADER, "0")))

    def create(
        self,
        file_id: str,
        *,
        endpoint: str,
        window: str,
        metadata: Mapping[str, str] | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> Batch:
        """`extra` are fields that only Nightbatch knows."""
        body: Any = {"endpoint": endpoint, "completion_window": window, "input_file_id": file_id}
        with self._plain_errors():
            return self.openai.batches.create(
                **body, metadata=dict(metadata) if metadata else None, extra_body=dict(extra) if extra else None
            )

    def batch(self, batch_id: str) -> Batch:
        with self._plain_errors():
            return self.openai.batches.retrieve(batch_id)

    def batches(self, limit: int) -> list[Batch]:
        """The newest `limit` batches."""
        with self._plain_errors():
            found: list[Batch] = []
            for batch in self.openai.batches.list(limit=min(limit, PAGE_BATCHES_MAX)):
                found.append(batch)
                if len(found) >= limit:
                    break
            return found

    def cancel(self, batch_id: str) -> Batch:
        with self._plain_errors():
            return self.openai.batches.cancel(batch_id)

    def pause(self, batch_id: str) -> Batch:
        return self._control(batch_id, "pause")

    def resume(self, batch_id: str) -> Batch:
        return self._control(batch_id, "resume")

    def _control(self, batch_id: str, verb: str) -> Batch:
        """Routes of Nightbatch's own; another server answers 404."""
        with self._plain_errors():
            return self.openai.post(f"/batches/{quote(batch_id, safe='')}/{verb}", cast_to=Batch)

    def schedule(self, batch_id: str) -> dict[str, Any]:
        """Why a batch runs or waits. A route of Nightbatch's own."""
        with self._plain_errors():
            answer = self.openai.get(f"/batches/{quote(batch_id, safe='')}/schedule", cast_to=httpx2.Response)
        found: dict[str, Any] = answer.json()
        return found

    def engines(self) -> dict[str, Any] | None:
        """How the engines are fed. A route of Nightbatch's own: None from a server that does not know it."""
        try:
            with self._plain_errors():
                answer = self.openai.get("/engines", cast_to=httpx2.Response)
            found: dict[str, Any] = answer.json()
        except ClientError as error:
            if error.unreachable or error.status_code in (401, 403):
                raise
            return None
        except ValueError:  # whatever answers there, it is no Nightbatch
            return None
        return found if isinstance(found, dict) and "server" in found else None

    def retry_plan(self, batch_id: str, asked: Mapping[str, object]) -> dict[str, Any]:
        """What a retry would run. A route of Nightbatch's own, as the next two."""
        answer = self._own(batch_id, "retry", {**asked, "dry_run": True}, httpx2.Response)
        found: dict[str, Any] = answer.json()
        return found

    def retry(self, batch_id: str, asked: Mapping[str, object]) -> Batch:
        return self._own(batch_id, "retry", asked, Batch)

    def merged(self, batch_id: str, kind: str, path: Path, on_bytes: OnBytes) -> None:
        """The results of a batch and its retries, to `path` by way of a `.part` file beside it."""
        part = path.with_name(path.name + ".part")
        address = f"{str(self.openai.base_url).rstrip('/')}/batches/{quote(batch_id, safe='')}/merged"
        got = 0
        with (
            self._plain_errors(),
            httpx2.stream(
                "GET", address, params={"kind": kind}, headers=self.openai.auth_headers, timeout=self.openai.timeout
            ) as answer,
        ):
            if answer.status_code != 200:
                raise _refusal(answer)
            with part.open("wb") as out:
                for chunk in answer.iter_bytes():
                    out.write(chunk)
                    on_bytes(got := got + len(chunk))
        part.replace(path)

    def _own(self, batch_id: str, verb: str, body: Mapping[str, object], cast_to: type[T]) -> T:
        with self._plain_errors():
            return self.openai.post(f"/batches/{quote(batch_id, safe='')}/{verb}", cast_to=cast_to, body=dict(body))

    def live_results(self, batch_id: str, cursor: str | None) -> LivePage | None:
        """The next results of a batch, in the order in which they came; None when it has ended and they can only be
        had from its files. A route of Nightbatch's own."""
        query = {} if cursor is None else {"after": cursor}
        try:
            with self._plain_errors():
                answer = self.openai.get(
                    f"/batches/{quote(batch_id, safe='')}/results",
                    cast_to=httpx2.Response,
                    options={"params": query},
                )
        except ClientError as error:
            if error.code == "batch_ended":
                return None
            raise
        return LivePage(answer.text, answer.headers[NEXT_CURSOR_HEADER], answer.headers[BATCH_STATUS_HEADER])

    def models(self) -> list[Model]:
        with self._plain_errors():
            return list(self.openai.models.list())

    def model(self, name: str) -> Model:
        """The model behind an id or an alias."""
        with self._plain_errors():
            return self.openai.models.retrieve(name)

    def file_size(self, file_id: str) -> int:
        with self._plain_errors():
            return self.openai.files.retrieve(file_id).bytes

    def download(self, file_id: str, path: Path, on_bytes: OnBytes) -> None:
        """To `path` by way of a `.part` file beside it. A broken connection goes on where it broke."""
        part = path.with_name(path.name + ".part")
        part.unlink(missing_ok=True)
        attempts_left = DOWNLOAD_ATTEMPTS_MAX
        while True:
            before = _size(part)
            try:
                self._download(file_id, part, on_bytes)
                break
            except ClientError as error:
                attempts_left = DOWNLOAD_ATTEMPTS_MAX if _size(part) > before else attempts_left - 1
                if not error.unreachable or attempts_left == 0:
                    raise
        part.replace(path)

    def _download(self, file_id: str, part: Path, on_bytes: OnBytes) -> None:
        start = _size(part)
        headers = {"Range": f"bytes={start}-"} if start else {}
        with self._plain_errors():
            if start and start == self.openai.files.retrieve(file_id).bytes:
                return
            with self.openai.files.with_streaming_response.content(file_id, extra_headers=headers) as answer:
                start = start if answer.status_code == 206 else 0
                with part.open("ab" if start else "wb") as out:
                    for chunk in answer.iter_bytes():
                        out.write(chunk)
                        on_bytes(start := start + len(chunk))

    @contextmanager
    def _plain_errors(self) -> Iterator[None]:
        try:
            yield
        except openai.APIStatusError as error:
            raise ClientError(_sentence(error), status_code=error.status_code, code=error.code) from error
        except openai.APIError as error:
            cause = error.__cause__ or error
            raise ClientError(f"no answer from {self.target.url} ({str(cause) or type(cause).__name__})") from error
        except httpx2.TransportError as error:
            raise ClientError(f"the connection to {self.target.url} broke ({error})") from error
        except openai.OpenAIError as error:
            raise ClientError(str(error)) from error


def _refusal(answer: httpx2.Response) -> ClientError:
    answer.read()
    try:
        error = answer.json()["error"]
        message, code = str(error["message"]), error.get("code")
    except (ValueError, KeyError, TypeError, AttributeError):
        message, code = answer.text[:200], None
    return ClientError(f"{message} (HTTP {answer.status_code})", status_code=answer.status_code, code=code)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _sentence(error: openai.APIStatusError) -> str:
    """The message of the error envelope, without the package's `Error code: 404 - {...}` around it."""
    body = error.body
    message = body.get("message") if isinstance(body, Mapping) else None
    return f"{message or error.message} (HTTP {error.status_code})"
