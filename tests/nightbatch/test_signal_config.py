"""`[windows.signal]` as an operator sets and sees it: the file, its refusals, `nightbatch windows`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nightbatch.cli import app
from nightbatch.config import Config, ConfigError, load
from nightbatch.outside_signal import outside_signal
from nightbatch.terms import hold

SIGNAL = '[windows.signal]\nname = "price"\nurl = "https://example.com/price"\nhold_above = 250\n'
NIGHTS = '[windows]\ntimezone = "Europe/Berlin"\n[[windows.off_peak]]\nname = "night"\nstart = "22:00"\nend = "06:00"\n'


def loaded(folder: Path, text: str) -> Config:
    path = folder / "nightbatch.toml"
    path.write_text(text, encoding="utf-8")
    return load(path, environment={})


def shown(folder: Path, text: str, *arguments: str) -> str:
    path = folder / "nightbatch.toml"
    path.write_text(text, encoding="utf-8")
    done = CliRunner().invoke(app, ["windows", "--config", str(path), *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        (SIGNAL + 'file = "/tmp/x"\n', 1, "exactly one of url, file is needed: url and file are set"),
        (SIGNAL.replace("url", "#"), 1, "exactly one of url, file is needed: none is there"),
        (SIGNAL + "hold_below = 3\n", 1, "exactly one of hold_above, hold_below, busy_when is needed: hold_above and"),
        (SIGNAL.replace("hold_above = 250", ""), 1, "exactly one of hold_above, hold_below, busy_when is needed: none"),
        (SIGNAL.replace("250", "inf"), 4, "finite number"),
        (SIGNAL.replace("https", "http"), 1, "url is http: use https, or set allow_private = true"),
        (SIGNAL.replace("https://example.com/price", "example.com"), 3, "'example.com' is no URL"),
        (SIGNAL + 'regex = "("\n', 5, "is no regular expression: missing )"),
        (SIGNAL + 'json_path = "a..b"\n', 5, "'a..b' is no path: write it as data.0.price"),
        (SIGNAL + 'json_path = "a"\nregex = "b"\n', 1, "json_path and regex are both set"),
        (SIGNAL + "timeout_seconds = 90\n", 1, "timeout_seconds is longer than every_seconds"),
        (SIGNAL + "stale_after_seconds = 10\n", 1, "stale_after_seconds is shorter than every_seconds"),
        (SIGNAL + "file_seconds_max = 10\n", 1, "file_seconds_max is for a file"),
        (SIGNAL + 'on_failure = "run"\n', 5, "'clock' or 'hold'"),
        (SIGNAL.replace("url", "file") + 'token_env = "T"\n', 1, "token_env is for a url"),
        (SIGNAL.replace("hold_above = 250", 'busy_when = "x"\nresume_margin = 2'), 1, "resume_margin is for numbers"),
        (SIGNAL + "treshold = 3\n", 5, "unknown key windows.signal.treshold"),
    ],
)
def test_an_impossible_signal_is_refused_with_its_line(tmp_path: Path, text: str, line: int, reason: str) -> None:
    with pytest.raises(ConfigError) as refused:
        loaded(tmp_path, text)
    assert f"nightbatch.toml line {line}: " in str(refused.value)
    assert reason in str(refused.value)


def test_a_token_that_is_not_there_is_refused_at_start(tmp_path: Path) -> None:
    section = loaded(tmp_path, SIGNAL + 'token_env = "PRICE_TOKEN"\n').windows
    with pytest.raises(ConfigError, match=r"windows\.signal: the variable PRICE_TOKEN holds no token"):
        outside_signal(section, {"PRICE_TOKEN": " "}, lambda: 0.0)
    assert outside_signal(section, {"PRICE_TOKEN": "secret"}, lambda: 0.0) is not None


def test_a_signal_can_hold_batches_where_no_window_is_set(tmp_path: Path) -> None:
    assert hold(loaded(tmp_path, SIGNAL)) is not None
    assert hold(loaded(tmp_path, "")) is None


def test_the_command_shows_what_the_signal_says_now(tmp_path: Path) -> None:
    (tmp_path / "price").write_text("312.4", encoding="utf-8")
    text = f'[windows.signal]\nname = "price"\nfile = "{tmp_path / "price"}"\nhold_above = 250\n'
    assert "signal 'price': 312.4 is above 250; batches wait while their deadline allows." in shown(tmp_path, text)
    (tmp_path / "price").write_text("12", encoding="utf-8")
    assert "signal 'price': 12 is not above 250; batches may run." in shown(tmp_path, NIGHTS + text)
    assert json.loads(shown(tmp_path, NIGHTS + text, "--json"))["signal"] == {
        "name": "price", "state": "free", "says": "12 is not above 250", "problem": None,
    }  # fmt: skip


def test_the_command_says_why_the_signal_is_not_known(tmp_path: Path) -> None:
    text = f'[windows.signal]\nfile = "{tmp_path / "none"}"\nbusy_when = "busy"\n'
    assert (
        "signal 'signal' is not known: the file cannot be read: No such file or directory; the clock alone decides."
        in shown(tmp_path, NIGHTS + text)
    )
    assert json.loads(shown(tmp_path, text, "--json"))["signal"]["state"] == "unknown"


def test_without_a_signal_the_command_shows_none(tmp_path: Path) -> None:
    assert "signal" not in shown(tmp_path, NIGHTS)
    assert json.loads(shown(tmp_path, NIGHTS, "--json"))["signal"] is None
