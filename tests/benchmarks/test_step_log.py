from __future__ import annotations

import json
import mmap
from pathlib import Path

import pytest

from benchmarks import online_load, step_log
from benchmarks.backlog import BANKING, DOCUMENTS, MATHS, Lines
from benchmarks.form import CouldNotMeasure
from benchmarks.step_log import KNOBS, Knobs, Step


def step(at: float) -> Step:
    return Step(at, batch_output=5, batch_prompt=64, online_output=1, online_prompt=0, running=6, waiting=0, step_us=9)


def test_a_half_written_record_is_not_read(tmp_path: Path) -> None:
    (tmp_path / step_log.LOG_NAME).write_bytes(step(1.0).packed() + step(2.0).packed()[:10])
    assert step_log.read_steps(tmp_path) == [step(1.0)]
    assert step_log.read_steps(tmp_path, after=1) == []


def test_an_engine_that_has_not_stepped_has_no_steps(tmp_path: Path) -> None:
    assert step_log.read_steps(tmp_path) == []


def test_a_window_has_the_steps_that_ended_in_it() -> None:
    steps = [step(at) for at in (1.0, 2.0, 3.0, 4.0)]
    assert [one.ended_at for one in step_log.between(steps, 1.5, 3.5)] == [2.0, 3.0]


def test_knobs_change_under_a_reader_that_has_them_mapped(tmp_path: Path) -> None:
    step_log.write_knobs(tmp_path, Knobs())
    with (tmp_path / step_log.KNOBS_NAME).open("r+b") as file, mmap.mmap(file.fileno(), KNOBS.size) as memory:
        assert KNOBS.unpack(memory) == (0, 0, 0)
        step_log.write_knobs(tmp_path, Knobs(256, is_fcfs=True))
        assert KNOBS.unpack(memory) == (256, 1, 0)


def test_only_chunks_with_text_count_as_tokens() -> None:
    assert online_load.says_something(b'{"choices":[{"delta":{"content":"a"}}]}')
    assert not online_load.says_something(b'{"choices":[{"delta":{"role":"assistant","content":""}}]}')
    assert not online_load.says_something(b'{"choices":[{"delta":{},"finish_reason":"stop"}]}')
    assert not online_load.says_something(b'{"choices":[],"usage":{"prompt_tokens":3}}')


def test_batches_of_the_backlog_are_mixed_and_the_same_for_the_same_seed() -> None:
    one, other = Lines("m", seed=3), Lines("m", seed=3)
    first = one.batch()
    assert first == other.batch()
    assert first != one.batch()
    assert first.count(b"\n") == BANKING + MATHS + DOCUMENTS
    assert first.count(b"response_format") == BANKING


def test_lines_that_are_given_are_sent_in_turn_for_the_model_that_runs() -> None:
    given = [
        json.dumps({"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [text]}})
        for text in ("one", "two", "three")
    ]
    lines = Lines("m", [line.encode() for line in given])
    sent = [json.loads(line) for line in (lines.batch() + lines.batch()).splitlines()]
    assert [line["body"]["messages"] for line in sent[:4]] == [["one"], ["two"], ["three"], ["one"]]
    assert {line["body"]["model"] for line in sent} == {"m"}
    assert len({line["custom_id"] for line in sent}) == len(sent)


@pytest.mark.parametrize(
    ("line", "what"), [(b"[]", "no batch line"), (b'{"url": "/v1/embeddings", "body": {}}', "for /v1/embeddings")]
)
def test_lines_that_cannot_be_sent_are_refused(line: bytes, what: str) -> None:
    with pytest.raises(CouldNotMeasure, match=what):
        Lines("m", [line])
