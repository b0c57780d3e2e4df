"""The load process against a real server with a simulated engine."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.form import CouldNotMeasure
from benchmarks.interference_load import Load, NoLoad
from benchmarks.server_process import ServerProcess

TOKENS = 6
ENGINE = '[[models]]\nid = "chat"\nengine = "simulated"\nprofile = "cpu-135m"\n'


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with ServerProcess([], config=ENGINE) as server:
        yield server.url


def load_of(url: str, folder: Path, *, model: str = "chat") -> Load:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Hello."}],
        "max_tokens": TOKENS,
        "ignore_eos": True,
        "stream": True,
    }
    plan = folder / "plan.json"
    plan.write_text(
        json.dumps({"url": url, "requests": [{"after_seconds": after, "body": body} for after in (0.0, 0.2)]})
    )
    return Load(plan, folder / "sent.json", folder / "load.log")


def test_requests_are_sent_when_they_are_due_and_every_token_is_noted(url: str, tmp_path: Path) -> None:
    load = load_of(url, tmp_path)
    try:
        load.wait_ready()
        not_before = time.time() + 0.3
        start_at = load.begin(not_before)
        assert start_at == pytest.approx(not_before, abs=0.2)
        sent = load.answers()
    finally:
        load.stop()
    assert [at >= start_at + after for (at, _), after in zip(sent, (0.0, 0.2), strict=True)] == [True, True]
    assert [len(tokens) for _, tokens in sent] == [TOKENS, TOKENS]
    assert all(at < tokens[0] and list(tokens) == sorted(tokens) for at, tokens in sent)
    assert load.cpu_seconds > 0


def test_a_refused_request_makes_the_window_no_measurement(url: str, tmp_path: Path) -> None:
    load = load_of(url, tmp_path, model="nobody")
    try:
        load.wait_ready()
        load.begin(time.time() + 0.2)
        with pytest.raises(CouldNotMeasure, match=r"2 online requests were not answered: 404"):
            load.answers()
    finally:
        load.stop()


def test_a_load_that_hears_the_word_late_says_when_it_began(url: str, tmp_path: Path) -> None:
    load = load_of(url, tmp_path)
    try:
        load.wait_ready()
        told_at = time.time()
        start_at = load.begin(told_at - 5)
        assert start_at > told_at
        assert all(at >= start_at for at, _ in load.answers())
    finally:
        load.stop()


def test_a_load_that_cannot_start_says_why(tmp_path: Path) -> None:
    load = Load(tmp_path / "missing.json", tmp_path / "sent.json", tmp_path / "load.log")
    try:
        with pytest.raises(CouldNotMeasure, match=r"missing\.json"):
            load.wait_ready()
    finally:
        load.stop()


def test_nobody_sees_nothing() -> None:
    nobody = NoLoad()
    assert nobody.begin(time.time() + 60) > time.time() + 50
    assert nobody.begin(0.0) <= time.time()
    assert nobody.answers() == []
