"""Off-peak hours as an operator sets and sees them: the file, its refusals, `nightbatch windows`, the first lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from nightbatch.banner import banner
from nightbatch.config import Config, ConfigError, load
from nightbatch.engines import Fleet
from nightbatch.terms import hold

COMMAND = Path(sys.executable).with_name("nightbatch")
NIGHTS = """[windows]
timezone = "Europe/Berlin"
outside = "hold"
holidays = [2026-12-25]
[[windows.off_peak]]
name = "night"
days = ["mon-fri"]
start = "22:00"
end = "06:00"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "nightbatch.toml"
    path.write_text(text, encoding="utf-8")
    return path


def run(*arguments: str, cwd: Path, typed: str = "") -> subprocess.CompletedProcess[str]:
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("NIGHTBATCH_", "OPENAI_"))}
    return subprocess.run(
        [str(COMMAND), *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=60,
        env=settings,
        input=typed,
        check=False,
    )


def test_windows_of_the_file_become_a_calendar(tmp_path: Path) -> None:
    config = load(written(tmp_path, NIGHTS), environment={})
    found = hold(config)
    assert found is not None
    (window,) = found.calendar.windows
    assert (window.name, sorted(window.days), str(window.start), str(window.end)) == (
        "night", [0, 1, 2, 3, 4], "22:00:00", "06:00:00",
    )  # fmt: skip
    assert found.calendar.holidays == {date(2026, 12, 25)}


def test_with_fill_nothing_is_held(tmp_path: Path) -> None:
    assert hold(load(written(tmp_path, NIGHTS.replace("hold", "fill")), environment={})) is None


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ('[windows]\ntimezone = "Europe/Berlim"\n', 2, "Did you mean Europe/Belfast, Europe/Berlin"),
        ('[windows]\ntimezone = "../etc"\n', 2, "is no time zone of this machine"),
        ('[windows]\noutside = "hold"\n', 1, 'outside = "hold" needs a window to wait for'),
        ('[windows]\n[[windows.off_peak]]\nstart = "22:00"\nend = "06:00"\n', 1, "timezone is missing"),
        (NIGHTS.replace("mon-fri", "mon-fry"), 7, "'mon-fry' is no day: write mon, tue"),
        (NIGHTS.replace('["mon-fri"]', "[]"), 7, "at least 1 item"),
        (NIGHTS.replace("22:00", "25:00"), 8, "'25:00' is no time of day: write it as 22:00"),
        (NIGHTS.replace("06:00", "6"), 9, "'6' is no time of day"),
        (NIGHTS.replace("06:00", "06:00+01:00"), 9, "is no time of day"),
        (NIGHTS + "until = 3\n", 10, "unknown key windows.off_peak[1].until (known here: name, days, start, end)"),
    ],
)
def test_an_impossible_window_is_refused_with_its_line(tmp_path: Path, text: str, line: int, reason: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(written(tmp_path, text), environment={})
    assert f"nightbatch.toml line {line}: " in str(refused.value)
    assert reason in str(refused.value)


def test_the_command_prints_the_windows_of_the_coming_week(tmp_path: Path) -> None:
    written(tmp_path, NIGHTS)
    done = run("windows", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].split() == ["window", "opens", "closes", "hours"]
    assert done.stdout.count("night ") in {5, 6}  # one may be open now
    assert "are off-peak. Outside them batches wait while their deadline allows (hold)." in done.stdout


def test_the_command_prints_windows_for_programs(tmp_path: Path) -> None:
    written(tmp_path, NIGHTS)
    shown = json.loads(run("windows", "--days", "14", "--json", cwd=tmp_path).stdout)
    assert (shown["timezone"], shown["outside"]) == ("Europe/Berlin", "hold")
    assert len(shown["windows"]) in {10, 11}
    assert all(
        datetime.fromisoformat(one["opens_at"]) < datetime.fromisoformat(one["closes_at"]) for one in shown["windows"]
    )


def test_without_windows_the_command_says_how_to_set_them(tmp_path: Path) -> None:
    written(tmp_path, "")
    assert "nightbatch windows init" in run("windows", cwd=tmp_path).stdout


def test_init_asks_again_until_an_answer_can_be_and_writes_what_a_server_takes(tmp_path: Path) -> None:
    path = written(tmp_path, "[server]\nport = 8123\n")
    answers = ["Mars/Base", "Europe/Berlin", "mon-thu, fri", "22", "22:00", "05:30", "y", "y"]
    done = run("windows", "init", cwd=tmp_path, typed="\n".join(answers) + "\n")
    assert done.returncode == 0, done.stderr
    assert "'Mars/Base' is no time zone of this machine" in done.stdout
    config = load(path, environment={})
    assert config.server.port == 8123
    assert (config.windows.timezone, config.windows.outside) == ("Europe/Berlin", "hold")
    assert [(one.name, one.days, one.start, one.end) for one in config.windows.off_peak] == [
        ("night", ("mon-thu", "fri"), "22:00", "05:30"),
        ("weekend", ("sat", "sun"), "00:00", "24:00"),
    ]


def test_init_leaves_windows_that_are_set_alone(tmp_path: Path) -> None:
    path = written(tmp_path, NIGHTS)
    done = run("windows", "init", cwd=tmp_path)
    assert done.returncode == 2
    assert "has [windows] already" in done.stderr
    assert path.read_text(encoding="utf-8") == NIGHTS


def test_the_first_lines_of_a_server_say_what_holds_now(tmp_path: Path) -> None:
    config = load(written(tmp_path, NIGHTS), environment={})
    noon = datetime(2026, 6, 10, 10, tzinfo=UTC)
    assert line(config, noon) == "peak time until Wed 22:00 Europe/Berlin; batches wait outside (hold)"
    assert line(config, noon + timedelta(hours=12)) == (
        "'night' is open until Thu 06:00 Europe/Berlin; batches wait outside (hold)"
    )
    bare = load(written(tmp_path, ""), environment={})
    assert line(bare, noon) == "no off-peak window is set: batches run at any hour"


def line(config: Config, now: datetime) -> str:
    fleet = Fleet(engines=())
    lines = banner(config, fleet, "http://x", now=now.timestamp())
    (found,) = (one for one in lines if one.startswith("windows"))
    return found.removeprefix("windows").strip()
