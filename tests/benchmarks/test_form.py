from __future__ import annotations

import json
import socket
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

import benchmarks
from benchmarks import form
from benchmarks.form import Arm, CouldNotMeasure, Figure, Options, Report, summarised

KEYS = ["benchmark", "commit", "machine", "device", "versions", "command", "quick", "figures", "arms", "notes"]


def report(_options: Options, say: Callable[[str], None]) -> Report:
    say("round 1 of 1")
    rate = summarised([1.0, 2.0, 4.0], "requests/s")
    return Report(
        figures={"requests_per_s": rate, "once": Figure(12_345.6, "lines", 1)},
        arms=[Arm("ours", {"cores_bound": "0,1"}, {"requests_per_s": rate})],
        notes=[f"log in {Path.cwd()}/a/b.log"],
    )


def run(argv: list[str], measure: form.Measure = report) -> int:
    return form.run(argv, name="example", description="An example.", measure=measure)


def test_the_json_has_the_published_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "report.json"
    assert run(["--quick", "--json", str(path)]) == form.MEASURED
    document = json.loads(path.read_text())
    assert list(document) == KEYS
    assert document["benchmark"] == "example"
    assert document["command"] == "nightbatch bench example --quick"
    assert document["quick"] is True
    assert document["figures"]["requests_per_s"]["value"] == 2.0
    assert document["figures"]["requests_per_s"]["n"] == 3
    assert document["figures"]["requests_per_s"]["interval"] == [1.0, 4.0]
    assert document["figures"]["once"] == {"value": 12_345.6, "unit": "lines", "n": 1}
    assert document["arms"][0]["facts"] == {"cores_bound": "0,1"}
    assert set(document["machine"]) == {"cpu", "cores", "memory_gib", "python", "os"}
    shown = capsys.readouterr()
    assert "requests_per_s" in shown.out
    assert "12,346" in shown.out
    assert "round 1 of 1" in shown.err


def test_no_report_names_the_machine_or_a_folder_of_it(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    run(["--json", str(path)])
    text = path.read_text()
    for place in (Path.cwd(), Path.home(), tmp_path, Path(benchmarks.__file__).parents[1]):
        assert str(place) not in text
    assert socket.gethostname() not in text
    assert json.loads(text)["notes"] == ["log in b.log"]


def test_not_measuring_is_a_failure_with_a_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def fail(_options: Options, _say: Callable[[str], None]) -> Report:
        raise CouldNotMeasure("the server lists no model")

    assert run(["--json", str(tmp_path / "report.json")], fail) == form.COULD_NOT_MEASURE
    assert "could not measure: the server lists no model" in capsys.readouterr().err
    assert not (tmp_path / "report.json").exists()


def test_being_interrupted_is_not_a_measurement() -> None:
    def interrupt(_options: Options, _say: Callable[[str], None]) -> Report:
        raise KeyboardInterrupt

    assert run([], interrupt) == form.INTERRUPTED


@pytest.mark.parametrize(
    ("argv", "kept", "engine"),
    [
        (["--engine-args", "--enforce-eager", "--quick"], ["--quick"], ["--enforce-eager"]),
        (["--engine-args", "--a 1 --b 'x y'"], [], ["--a", "1", "--b", "x y"]),
        (["--engine-args=--a 1"], [], ["--a", "1"]),
        (["--quick", "--", "--a", "--json"], ["--quick"], ["--a", "--json"]),
        (["--engine-args", "--a 1", "--", "--b"], [], ["--a", "1", "--b"]),
    ],
)
def test_engine_flags_are_told_from_ours(argv: list[str], kept: list[str], engine: list[str]) -> None:
    assert form.split_engine_args(argv) == (kept, tuple(engine))


def test_engine_args_without_a_value_say_how(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        form.parse("example", "", ["--engine-args"])
    assert end.value.code == 2
    assert "--engine-args needs a value" in capsys.readouterr().err


def test_an_input_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        form.parse("example", "", ["--input", "nowhere.jsonl"])
    assert "nowhere.jsonl: no such file" in capsys.readouterr().err


def test_a_model_and_an_upstream_exclude_each_other() -> None:
    with pytest.raises(SystemExit):
        form.parse("example", "", ["--model", "a", "--upstream", "http://b/v1"])


def test_a_flag_of_one_benchmark_reaches_it_as_extra() -> None:
    options = form.parse("example", "", ["--rounds", "7"], lambda parser: parser.add_argument("--rounds", type=int))
    assert options.extra == {"rounds": 7}


@pytest.mark.parametrize("name", sorted(benchmarks.names()))
def test_every_named_benchmark_answers_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        import_module(f"benchmarks.{name}").main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    for flag in ("--model", "--upstream", "--input", "--engine-args", "--quick", "--json"):
        assert flag in shown
