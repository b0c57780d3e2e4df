from __future__ import annotations

import socket
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import anonymous

names = st.text(alphabet="abcxyz019_-", min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/srv/models/qwen", "qwen"),
        ("~/models/qwen", "qwen"),
        ("../inputs/night.jsonl", "night.jsonl"),
        ("--input=/srv/in/night.jsonl", "--input=night.jsonl"),
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
        ("--max-num-seqs 64 --tokenizer /srv/t", "--max-num-seqs 64 --tokenizer t"),
        ("http://gpu1.example.org:8000/v1", "http://HOST:8000/v1"),
        ("http://key:secret@gpu1:8000/v1", "http://HOST:8000/v1"),
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
        ("--quick", "--quick"),
    ],
)
def test_an_argument_is_shown_without_where_it_was(value: str, shown: str) -> None:
    assert anonymous.argument(value) == shown


def test_a_command_can_be_typed_again_and_leaves_out_where_the_report_went() -> None:
    shown = anonymous.command("throughput", ["--quick", "--json", "/srv/report.json", "--engine-args", "--a 1"])
    assert shown == "nightbatch bench throughput --quick --engine-args '--a 1'"
    assert anonymous.command("intake", ["--json=/srv/report.json"]) == "nightbatch bench intake"


@settings(deadline=None)
@given(st.lists(names, min_size=1, max_size=4))
def test_no_part_of_a_known_folder_is_left(parts: list[str]) -> None:
    folder = "/secretplace/QQ"
    text = f"cannot open {folder}/{'/'.join(parts)}: no such file"
    shown = anonymous.without_places(text, [folder], "")
    assert "QQ" not in shown
    assert shown == f"cannot open {parts[-1]}: no such file"


def test_a_folder_alone_goes_too() -> None:
    assert anonymous.without_places("cwd is /srv/place", ["/srv/place"], "") == "cwd is "


def test_a_longer_name_that_begins_alike_is_another_folder() -> None:
    assert anonymous.without_places("/srv/placebo/x", ["/srv/place"], "") == "/srv/placebo/x"


def test_the_host_is_not_named_but_a_word_that_holds_its_name_stays() -> None:
    assert anonymous.without_places("host box1 and box1.example.org", [], "box1") == "host HOST and HOST"
    assert anonymous.without_places("inbox12 box1-a", [], "box1") == "inbox12 box1-a"


def test_this_machine_is_not_in_a_text_about_it() -> None:
    text = f"{Path.cwd()}/a/b.jsonl {Path.home()}/c {socket.gethostname()}"
    shown = anonymous.anonymous(text)
    assert str(Path.cwd()) not in shown
    assert shown.startswith("b.jsonl c ")
