from __future__ import annotations

from pathlib import Path

import pytest

from nightbatch.client import CountedFile
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
