from __future__ import annotations

import json
from pathlib import Path

import pytest
from openai.types import Batch

from nightbatch import exits
from nightbatch.commands.progress import mib, seconds
from nightbatch.exactly_once import compare
from nightbatch.outcome import exit_code, ran_seconds, refusals, summary


def ended(status: str, completed: int = 10, failed: int = 0, **more: object) -> Batch:
    counts = {"total": 10, "completed": completed, "failed": failed}
    return Batch.construct(**{"id": "batch_a", "status": status, "request_counts": counts, **more})


@pytest.mark.parametrize(
    ("batch", "code"),
    [
        (ended("completed"), exits.OK),
        (ended("completed", 9, 1), exits.SOME_FAILED),
        (ended("expired", 4, 0), exits.SOME_FAILED),
        (ended("cancelled", 10, 0), exits.SOME_FAILED),
        (ended("failed", 0, 0), exits.BATCH_FAILED),
    ],
)
def test_only_a_batch_whose_every_line_succeeded_exits_with_0(batch: Batch, code: int) -> None:
    assert exit_code(batch) == code


def test_the_summary_has_counts_tokens_and_speed() -> None:
    usage = {"input_tokens": 14204, "output_tokens": 1820, "total_tokens": 16024}
    batch = ended("completed", 9, 1, usage=usage, in_progress_at=100, finalizing_at=140)
    assert ran_seconds(batch) == 40
    assert summary(batch) == (
        "batch_a completed: 9 of 10 lines succeeded, 1 failed, 14,204 tokens in, 1,820 out, 40.0 s (46 tok/s)"
    )


def test_line_errors_name_their_line_and_do_not_flood() -> None:
    data = [{"code": "invalid_json_line", "message": "not JSON", "line": line} for line in range(1, 31)]
    lines = refusals(ended("failed", errors={"object": "list", "data": data}))
    assert lines[0] == "line 1: invalid_json_line: not JSON"
    assert lines[-1] == "... and 10 more"


def jsonl(path: Path, ids: list[str]) -> Path:
    path.write_text("".join(json.dumps({"custom_id": one}) + "\n" for one in ids), encoding="utf-8")
    return path


def test_exactly_once_counts_both_files_together(tmp_path: Path) -> None:
    asked = jsonl(tmp_path / "in", ["a", "b", "c"])
    output, errors = jsonl(tmp_path / "out", ["a", "c"]), jsonl(tmp_path / "err", ["b"])
    assert compare(asked, [output, errors]).exact
    assert compare(asked, [output]).missing == ("b",)
    assert compare(asked, [output, errors, errors]).repeated == ("b",)
    odd = compare(asked, [jsonl(tmp_path / "odd", ["a", "b", "c", "d"])])
    assert (odd.unknown, odd.exact) == (("d",), False)
    assert odd.says() == "of 3 custom_ids: 1 unknown (d)"


@pytest.mark.parametrize(
    ("value", "text"),
    [(4.24, "4.2 s"), (185, "3 min 5 s"), (3600, "1 h"), (8040, "2 h 14 min"), (273600, "3 d 4 h"), (60, "1 min")],
)
def test_lengths_of_time_are_for_people(value: float, text: str) -> None:
    assert seconds(value) == text


def test_sizes_are_for_people() -> None:
    assert [mib(size) for size in (12, 2048, 3 << 20, 5 << 30)] == ["12 B", "2.0 KiB", "3.0 MiB", "5.0 GiB"]
