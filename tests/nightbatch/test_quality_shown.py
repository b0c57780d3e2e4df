"""What `nightbatch status` says of the quality of a batch, and the commands it suggests."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from nightbatch.quality import advice, rows


def batch(**changed: Any) -> SimpleNamespace:
    quality = {
        "lines": 10,
        "failed": {},
        "answers": {},
        "finish_reasons": {"stop": 10},
        "json_answers": 0,
        "output_tokens": {"p50": 5, "p90": 6, "p99": 7, "max": 8},
        "labels": {},
        "error_groups": [],
        "other_errors": 0,
        **changed,
    }
    return SimpleNamespace(id="batch_1", quality=quality)


def group(status_code: int | None, count: int) -> dict[str, Any]:
    return {"status_code": status_code, "code": "x", "message": "m", "count": count, "lines": [1], "custom_ids": ["c"]}


def test_nothing_is_suggested_when_nothing_is_wrong() -> None:
    assert advice(batch(), True) == []
    assert [name for name, _ in rows(batch())] == ["finish", "length"]


def test_a_server_that_says_nothing_of_quality_gets_no_rows_and_no_advice() -> None:
    assert rows(SimpleNamespace(id="batch_1")) == []
    assert advice(SimpleNamespace(id="batch_1", quality=None), True) == []


def test_lines_that_would_be_refused_again_are_told_from_those_that_another_try_may_help() -> None:
    told = advice(batch(failed={"error": 5}, error_groups=[group(400, 3), group(500, 2)]), True)
    assert told == [
        "3 lines were refused, and would be again as they are:",
        "  nightbatch retry batch_1 --where error --set FIELD=VALUE",
        "2 lines failed:",
        "  nightbatch retry batch_1 --where error",
    ]


def test_one_answer_is_spoken_of_in_the_singular() -> None:
    assert advice(batch(answers={"length": 1}), True)[0] == "1 answer was cut by max_tokens:"
    assert advice(batch(answers={"schema-mismatch": 1}), True)[0] == "1 answer does not match the schema asked for:"


def test_a_batch_that_runs_is_not_to_be_retried_yet() -> None:
    assert advice(batch(answers={"length": 1}), False) == []


def test_the_limit_suggested_is_at_least_twice_the_longest_answer() -> None:
    lengths = {"p50": 5, "p90": 6, "p99": 7, "max": 1500}
    assert advice(batch(answers={"length": 2}, output_tokens=lengths), True)[1].endswith("--set max_tokens=4096")
