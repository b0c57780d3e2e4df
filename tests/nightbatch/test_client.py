from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from nightbatch.client import Client, CountedFile
from nightbatch.target import Target


@pytest.mark.parametrize(
    ("url", "environment", "expected"),
    [
        (None, {}, Target("http://127.0.0.1:8000")),
        ("gpu:9000", {}, Target("http://gpu:9000")),
        ("https://gpu/v1/", {}, Target("https://gpu")),
        (None, {"NIGHTBATCH_URL": "http://a", "OPENAI_BASE_URL": "http://b/v1"}, Target("http://a")),
        (None, {"OPENAI_BASE_URL": "http://b/v1", "OPENAI_API_KEY": "k"}, Target("http://b", "k")),
        (None, {"NIGHTBATCH_API_KEY": "n", "OPENAI_API_KEY": "k"}, Target("http://127.0.0.1:8000", "n")),
    ],
)
def test_the_nearest_name_of_a_server_counts(url: str | None, environment: dict[str, str], expected: Target) -> None:
    assert Target.find(url, None, environment) == expected


def test_an_openai_key_goes_to_no_server_but_the_one_named_beside_it() -> None:
    environment = {"OPENAI_BASE_URL": "http://b/v1", "OPENAI_API_KEY": "k"}
    assert Target.find("http://other", None, environment).api_key is None


def test_a_counted_file_says_how_far_it_was_read(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"0123456789")
    heard: list[int] = []
    with CountedFile(path, heard.append) as file:
        assert file.read(4) == b"0123"
        assert file.read() == b"456789"
    assert heard == [4, 10]


class Breaking(BaseHTTPRequestHandler):
    """Hangs up in the middle of its first answer, and serves ranges."""

    content = bytes(range(256)) * 4096
    asked: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        if not self.path.endswith("/content"):
            self._send(200, b'{"id": "file-a", "object": "file", "bytes": %d}' % len(self.content))
            return
        wanted = self.headers.get("Range")
        self.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        rest = self.content[start:]
        self._send(206 if wanted else 200, rest, cut=None if wanted else len(rest) // 2)

    def _send(self, status: int, body: bytes, cut: int | None = None) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(body[:cut])
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


def test_a_broken_download_goes_on_where_it_broke(tmp_path: Path) -> None:
    Breaking.asked.clear()
    with HTTPServer(("127.0.0.1", 0), Breaking) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        client = Client(Target(f"http://127.0.0.1:{server.server_port}"), retries_max=0)
        path = tmp_path / "results.jsonl"
        client.download("file-a", path, lambda _: None)
        client.close()
        server.shutdown()
        thread.join()
    assert path.read_bytes() == Breaking.content
    assert Breaking.asked[0] is None
    assert len(Breaking.asked) == 2
    assert [file.name for file in tmp_path.iterdir()] == ["results.jsonl"]
