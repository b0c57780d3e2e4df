"""What a former holder of a shard recorded is judged when the shard is taken over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scheduler.actors import former_results
from scheduler.actors.former_results import former_quality
from scheduler.actors.inputs import BatchInput, Inputs
from scheduler.facts import result_lines
from store.asked import AskedReader
from store.quality import Quality, quality_of
from store.records import LineResult, TokenUsage
from store.segments import SegmentWriter, scan
from tests.scheduler.world import World, chat

LINES = 9
JSON = {"type": "json_object"}


def result(line_no: int) -> LineResult:
    """Every fourth line failed; of the others half asked for JSON and did not get it."""
    content = {"choices": [{"finish_reason": "stop", "message": {"content": f"answer {line_no}"}}]}
    error = {"error": {"message": "no", "code": "refused"}}
    succeeded = line_no % 4 != 3
    body = json.dumps(content if succeeded else error).encode()
    line = result_lines.answered_line(
        "batch_1", line_no, f"row-{line_no}", status_code=200 if succeeded else 400, body=body
    )
    return LineResult(line_no, succeeded, line, TokenUsage())


@pytest.fixture
async def source(world: World) -> BatchInput:
    lines = [chat(f"row-{no}", **({"response_format": JSON} if no % 2 else {})) for no in range(LINES)]
    return await Inputs(world.store).open(await world.batch(lines))


def segment(path: Path, *groups: list[int]) -> Path:
    writer = SegmentWriter.create(path)
    for group in groups:
        writer.append([result(line_no) for line_no in group])
    writer.close()
    return path


def judged(source: BatchInput, line_nos: list[int]) -> Quality:
    bodies = [line.body for line in source.requests(line_nos)]
    results = [result(line_no) for line_no in line_nos]
    rows = [(one.line_no, one.succeeded, one.line, body) for one, body in zip(results, bodies, strict=True)]
    return quality_of(rows, AskedReader())


async def test_it_is_what_the_holder_itself_would_have_found(
    tmp_path: Path, source: BatchInput, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(former_results, "LINES_AT_ONCE", 2)
    paths = [segment(tmp_path / "0-1.segment", [4, 0, 7], [3]), segment(tmp_path / "0-2.segment", [8, 1])]
    found = former_quality([(path, scan(path)) for path in paths], source)
    assert found == judged(source, [4, 0, 7, 3, 8, 1])
    assert found is not None
    assert (found.lines, found.conditions["error"], found.conditions["invalid-json"]) == (6, 2, 1)


async def test_without_former_results_there_is_nothing_to_judge(tmp_path: Path, source: BatchInput) -> None:
    missing = tmp_path / "0-1.segment"
    assert former_quality([(missing, scan(missing))], source) == Quality()
    assert former_quality([], source) == Quality()


async def test_what_cannot_be_read_is_left_to_the_end_of_the_batch(tmp_path: Path, source: BatchInput) -> None:
    path = segment(tmp_path / "0-1.segment", [0, 1])
    scanned = scan(path)
    path.unlink()
    assert former_quality([(path, scanned)], source) is None
