"""A batch's walk from validating to its end, over the real store."""

from __future__ import annotations

from store import BatchStatus
from tests.scheduler.world import TestEngine, World, chat, chats, running


async def test_a_batch_completes_with_every_line_in_input_order(world: World, engine: TestEngine) -> None:
    batch = await world.batch(chats(100))
    async with running(world.scheduler()):
        ended = await world.ended(batch)
    output, errors = await world.results(ended)
    assert ended.status is BatchStatus.COMPLETED
    assert [line["custom_id"] for line in output] == [f"row-{no}" for no in range(100)]
    assert output[7]["response"]["body"]["choices"][0]["message"]["content"] == "QUESTION 7"
    assert errors == []
    assert (ended.counts.total, ended.counts.completed, ended.counts.failed) == (100, 100, 0)
    assert (ended.usage.input_tokens, ended.usage.cached_tokens, ended.usage.output_tokens) == (300, 100, 200)
    assert engine.inflight_max <= 32
    assert not world.store.order_path(batch.id).parent.exists()


async def test_a_broken_file_fails_with_all_errors_and_no_results(world: World) -> None:
    lines = [chat("a"), b"not json", chat("b", model="gpt-4o"), {**chat("c"), "url": "/v1/embeddings"}]
    batch = await world.batch(lines)
    async with running(world.scheduler()):
        ended = await world.ended(batch)
    assert ended.status is BatchStatus.FAILED
    assert [(error.line, error.code) for error in ended.errors] == [
        (2, "invalid_json_line"),
        (3, "model_not_found"),
        (4, "invalid_url"),
    ]
    assert (ended.errors_total, ended.output_file_id, ended.error_file_id) == (3, None, None)
