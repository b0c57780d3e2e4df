"""OpenAI's limits on a file as a whole, and what becomes of a batch whose input is above them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.protocol import CHAT_COMPLETIONS, EMBEDDINGS
from scheduler.policy.limits import NONE, OPENAI, FileLimits, file_problem
from store.records import BatchStatus, OnInvalidLine
from tests.scheduler.world import TestEngine, World, a_model, chat, chats, registry_of, running


def test_openais_limits_are_50000_requests_and_50000_inputs() -> None:
    assert file_problem(OPENAI, endpoint=CHAT_COMPLETIONS, lines=50_000, sub_requests=90_000) is None
    assert file_problem(OPENAI, endpoint=EMBEDDINGS, lines=1000, sub_requests=50_000) is None
    lines = file_problem(OPENAI, endpoint=CHAT_COMPLETIONS, lines=50_001, sub_requests=50_001)
    inputs = file_problem(OPENAI, endpoint="/embeddings", lines=1000, sub_requests=50_001)
    assert lines is not None
    assert inputs is not None
    assert (lines.code, inputs.code) == ("too_many_requests", "too_many_inputs")
    assert "50,000" in lines.message
    assert "[server] strict_openai" in lines.message


def test_without_them_any_file_will_do() -> None:
    assert file_problem(NONE, endpoint=EMBEDDINGS, lines=10_000_000, sub_requests=100_000_000) is None


@pytest.mark.parametrize("on_invalid_line", list(OnInvalidLine))
async def test_a_file_of_too_many_lines_fails_as_a_whole(world: World, on_invalid_line: OnInvalidLine) -> None:
    batch = await world.batch([*chats(11), b"{"], on_invalid_line=on_invalid_line)
    async with running(world.scheduler(file_limits=FileLimits(lines_max=10))):
        ended = await world.ended(batch)
    assert (ended.status, ended.errors_total, ended.error_file_id) == (BatchStatus.FAILED, 1, None)
    (error,) = ended.errors
    assert (error.code, error.line) == ("too_many_requests", None)


async def test_strict_files_have_one_model_and_others_run_with_several(world: World) -> None:
    engine = TestEngine("two", models=[a_model("smol"), a_model("large")])
    world = World(world.store, registry_of(engine), world.settings)
    await world.registry.start()
    lines = [chat("a"), chat("b", model="large"), chat("c"), chat("d", model="large")]
    strict, free = await world.batch(lines), await world.batch(lines)
    async with running(world.scheduler(file_limits=replace(NONE, one_model=True))):
        refused = await world.ended(strict)
        await world.ended(free)
    assert refused.status is BatchStatus.FAILED
    assert [(error.code, error.line, error.param) for error in refused.errors] == [
        ("mismatched_model", 2, "body.model"),
        ("mismatched_model", 4, "body.model"),
    ]
    third = await world.batch(lines)
    async with running(world.scheduler()):
        assert (await world.ended(third)).status is BatchStatus.COMPLETED
