"""`on_invalid_line = report`: a broken line is an error of its own, and all others run."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.protocol import EMBEDDINGS
from scheduler.actors.invalid_lines import custom_id_of
from store.records import BatchStatus, OnInvalidLine
from tests.scheduler.world import TestEngine, World, chat, chats, running

REPORT = OnInvalidLine.REPORT
BROKEN: list[tuple[str, dict[str, Any] | bytes, str, str]] = [
    ("no JSON", b'{"custom_id": "x", ', "invalid_json_line", ""),
    ("no object", b'["custom_id"]', "invalid_request", ""),
    ("no UTF-8", b'{"custom_id": "\xff"}', "invalid_json_line", ""),
    ("no body", {"custom_id": "half", "method": "POST", "url": "/v1/x"}, "missing_required_parameter", "half"),
    ("another endpoint", {**chat("url"), "url": EMBEDDINGS}, "invalid_url", "url"),
    ("an unknown model", chat("model", model="nobody"), "model_not_found", "model"),
    ("a repeated custom_id", chat("row-0"), "duplicate_custom_id", "row-0"),
    ("a stream", chat("stream", stream=True), "invalid_request", "stream"),
]


async def ended_batch(world: World, lines: list[dict[str, Any] | bytes]) -> tuple[Any, list[Any], list[Any]]:
    batch = await world.batch(lines, on_invalid_line=REPORT)
    async with running(world.scheduler()):
        ended = await world.ended(batch)
    return ended, *await world.results(ended)


@pytest.mark.parametrize(("line", "code", "custom_id"), [one[1:] for one in BROKEN], ids=[one[0] for one in BROKEN])
async def test_each_kind_of_broken_line_becomes_an_error_line_and_the_rest_runs(
    world: World, line: dict[str, Any] | bytes, code: str, custom_id: str
) -> None:
    ended, output, errors = await ended_batch(world, [*chats(20), line, chat("last")])
    assert (ended.status, ended.errors, ended.errors_total) == (BatchStatus.COMPLETED, (), 0)
    assert (ended.counts.total, ended.counts.completed, ended.counts.failed) == (22, 21, 1)
    assert [found["custom_id"] for found in output] == [*(f"row-{no}" for no in range(20)), "last"]
    (error,) = errors
    assert (error["custom_id"], error["response"]) == (custom_id, None)
    assert (error["error"]["code"], error["error"]["line"]) == (code, 21)


async def test_a_line_with_two_errors_has_one_error_line(world: World) -> None:
    ended, _, errors = await ended_batch(world, [chat("good"), {**chat("bad", model="nobody"), "url": EMBEDDINGS}])
    assert [error["custom_id"] for error in errors] == ["bad"]
    assert ended.counts.failed == 1


async def test_invalid_lines_count_as_failed_from_the_start(world: World, engine: TestEngine) -> None:
    engine.hold()
    batch = await world.batch([*chats(10), b"{", b"["], on_invalid_line=REPORT)
    async with running(world.scheduler()):
        seen = await world.until(batch, lambda found: found.status is BatchStatus.IN_PROGRESS)
        assert (seen.counts.total, seen.counts.failed, seen.invalid_lines) == (12, 2, 2)
        engine.let_go()
        await world.ended(batch)


async def test_a_restart_in_the_middle_keeps_every_line_once(world: World, engine: TestEngine) -> None:
    lines: list[dict[str, Any] | bytes] = [b"{" if no % 5 == 0 else chat(f"row-{no}") for no in range(60)]
    batch = await world.batch(lines, on_invalid_line=REPORT)
    engine.hold()
    async with running(world.scheduler()):
        await world.until(batch, lambda found: found.status is BatchStatus.IN_PROGRESS)
    engine.let_go()
    async with running(world.scheduler()):
        ended = await world.ended(batch)
    output, errors = await world.results(ended)
    assert [line["custom_id"] for line in output] == [f"row-{no}" for no in range(60) if no % 5]
    assert [error["error"]["line"] for error in errors] == [no + 1 for no in range(60) if no % 5 == 0]


async def test_a_file_of_broken_lines_only_completes_with_errors_only(world: World) -> None:
    ended, output, errors = await ended_batch(world, [b"{", b"]", b"1"])
    assert (ended.status, ended.output_file_id) == (BatchStatus.COMPLETED, None)
    assert (output, len(errors)) == ([], 3)
    assert (ended.counts.total, ended.counts.failed) == (3, 3)


async def test_an_empty_file_fails_whatever_was_asked(world: World) -> None:
    batch = await world.batch([b""], on_invalid_line=REPORT)
    async with running(world.scheduler()):
        ended = await world.ended(batch)
    assert (ended.status, ended.errors[0].code) == (BatchStatus.FAILED, "empty_file")


async def test_a_cancelled_batch_keeps_the_errors_of_its_invalid_lines(world: World, engine: TestEngine) -> None:
    engine.hold()
    batch = await world.batch([*chats(3), b"{"], on_invalid_line=REPORT)
    async with running(world.scheduler()):
        await world.until(batch, lambda found: found.status is BatchStatus.IN_PROGRESS)
        await world.cancel(batch)
        ended = await world.ended(batch)
    _, errors = await world.results(ended)
    assert [error["error"]["code"] for error in errors] == ["batch_cancelled"] * 3 + ["invalid_json_line"]


async def test_every_result_survives_in_any_mixture(world: World) -> None:
    """Each line has exactly one result, whichever are broken."""

    @given(st.lists(st.booleans(), min_size=1, max_size=40))
    @settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def mixture(broken: list[bool]) -> None:
        examples.append(broken)

    examples: list[list[bool]] = []
    mixture()
    async with running(world.scheduler()):
        for broken in examples:
            lines = [b"{" if bad else chat(f"row-{no}") for no, bad in enumerate(broken)]
            ended = await world.ended(await world.batch(lines, on_invalid_line=REPORT))
            output, errors = await world.results(ended)
            assert [line["custom_id"] for line in output] == [f"row-{no}" for no, bad in enumerate(broken) if not bad]
            assert [error["error"]["line"] for error in errors] == [no + 1 for no, bad in enumerate(broken) if bad]


@pytest.mark.parametrize(
    ("raw", "custom_id"),
    [
        (b'{"custom_id": "a"}', "a"),
        (b'{"custom_id": 7}', ""),
        (b'{"other": 1}', ""),
        (b"[1]", ""),
        (b"{", ""),
        (b'{"custom_id": "\xff"}', ""),
        (b"[" * 100_000, ""),
    ],
)
def test_the_custom_id_of_a_broken_line_is_read_where_it_can_be(raw: bytes, custom_id: str) -> None:
    assert custom_id_of(raw) == custom_id
