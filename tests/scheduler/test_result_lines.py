"""Result lines in OpenAI's shape, the same whenever they are made."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from scheduler.facts import result_lines


def test_an_answer_stands_under_response_and_error_is_null() -> None:
    line = json.loads(result_lines.answered_line("batch_1", 4, "row-1", status_code=200, body=b'{"id":"x"}'))
    assert line["custom_id"] == "row-1"
    assert line["response"]["status_code"] == 200
    assert line["response"]["body"] == {"id": "x"}
    assert line["error"] is None
    assert line["id"].startswith("batch_req_")
    assert len(line["id"]) == len("batch_req_") + 32
    assert line["response"]["request_id"].startswith("req_")


def test_only_a_line_that_has_the_answer_of_another_says_so() -> None:
    own = json.loads(result_lines.answered_line("batch_1", 4, "row-1", status_code=200, body=b"{}"))
    reused = json.loads(result_lines.answered_line("batch_1", 4, "row-1", status_code=200, body=b"{}", reused=True))
    assert "reused" not in own
    assert reused == {**own, "reused": True}


def test_a_line_without_answer_has_an_error_object() -> None:
    line = json.loads(result_lines.unanswered_line("batch_1", 4, "row-1", result_lines.EXPIRED))
    assert line["response"] is None
    assert line["error"] == {
        "code": "batch_expired",
        "message": "This request could not be executed before the completion window expired.",
    }


def test_ids_depend_on_batch_and_line_only() -> None:
    first = result_lines.answered_line("batch_1", 4, "a", status_code=200, body=b"{}")
    assert first == result_lines.answered_line("batch_1", 4, "a", status_code=200, body=b"{}")
    ids = {
        json.loads(result_lines.unanswered_line(batch, no, "a", result_lines.CANCELLED))["id"]
        for batch in ("batch_1", "batch_2", "batch_11")
        for no in range(20)
    }
    assert len(ids) == 60


@given(st.text(st.characters(codec=None), max_size=40))
def test_any_custom_id_comes_back_exactly(custom_id: str) -> None:
    raw = result_lines.answered_line("batch_1", 0, custom_id, status_code=400, body=b"{}")
    assert json.loads(raw)["custom_id"] == custom_id
    assert b"\n" not in raw


def test_a_body_with_newlines_between_tokens_stays_one_line() -> None:
    raw = result_lines.answered_line("b", 0, "a", status_code=200, body=b'{\n  "x": "1\\n2"\n}')
    assert b"\n" not in raw
    assert json.loads(raw)["response"]["body"] == {"x": "1\n2"}
