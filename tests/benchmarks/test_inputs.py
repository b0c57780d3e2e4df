from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import examples, intake_lines
from benchmarks.form import CouldNotMeasure


@settings(deadline=None, max_examples=30)
@given(count=st.integers(min_value=0, max_value=4_500), line_bytes=st.integers(min_value=900, max_value=2_000))
def test_every_line_has_the_bytes_asked_for_and_an_id_of_its_own(count: int, line_bytes: int) -> None:
    lines = b"".join(intake_lines.chunks(count, model="m", line_bytes=line_bytes)).splitlines(keepends=True)
    assert len(lines) == count
    assert {len(line) for line in lines} <= {line_bytes}
    assert len({json.loads(line)["custom_id"] for line in lines[:: max(1, count // 50)]}) == len(
        lines[:: max(1, count // 50)]
    )


def test_a_generated_line_is_a_chat_request_for_the_model() -> None:
    (line,) = intake_lines.chunks(1, model="some-model", line_bytes=1_024)
    parsed = json.loads(line)
    assert parsed["custom_id"] == "line-00000000"
    assert parsed["method"] == "POST"
    assert parsed["url"] == "/v1/chat/completions"
    assert parsed["body"]["model"] == "some-model"
    assert [message["role"] for message in parsed["body"]["messages"]] == ["system", "user"]


def test_a_line_that_is_too_short_for_its_content_is_refused_with_the_length_it_needs() -> None:
    with pytest.raises(ValueError, match="needs"):
        intake_lines.template("m", 100)


def test_writing_says_how_many_bytes(tmp_path: Path) -> None:
    written = intake_lines.write(tmp_path / "in.jsonl", 3, model="m", line_bytes=1_024)
    assert written == 3 * 1_024 == (tmp_path / "in.jsonl").stat().st_size


LINES = [
    json.dumps({"custom_id": "same", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "a", "n": n}})
    for n in range(3)
]


def test_lines_get_the_model_and_go_round_with_fresh_ids() -> None:
    made = [json.loads(line) for line in examples.with_model([line.encode() for line in LINES], "b", count=7)]
    assert [line["body"]["n"] for line in made] == [0, 1, 2, 0, 1, 2, 0]
    assert {line["body"]["model"] for line in made} == {"b"}
    assert len({line["custom_id"] for line in made}) == 7


@pytest.mark.parametrize("broken", [b"{", b"[]", b'{"body": 1}', b'{"custom_id": "a"}'])
def test_a_broken_line_is_named(broken: bytes) -> None:
    with pytest.raises(CouldNotMeasure, match="line 2 of the input"):
        list(examples.with_model([LINES[0].encode(), broken], "b", count=2))


def test_the_examples_are_found_beside_the_package() -> None:
    assert examples.find("*banking77*.jsonl").is_file()


def test_a_missing_example_says_what_to_do() -> None:
    with pytest.raises(CouldNotMeasure, match="--input"):
        examples.find("*no-such*.jsonl")


def test_an_empty_input_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_bytes(b"\n\n")
    with pytest.raises(CouldNotMeasure, match="no lines"):
        examples.read_lines(tmp_path / "empty.jsonl")
