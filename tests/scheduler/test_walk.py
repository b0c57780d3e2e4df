"""A batch's walk from validating to its end, over the real store."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.protocol import EngineResult, EngineState
from engine.simulated.engine import SimulatedEngine
from engine.simulated.profiles import CPU_135M, simulated_model
from scheduler import SchedulerSettings
from store import BatchStatus, markers
from tests.scheduler.world import SETTINGS, TestEngine, World, a_model, chat, chats, poll, registry_of, running


async def test_a_batch_completes_with_every_line_in_input_order(world: World, engine: TestEngine) -> None:
    engine.answer_seconds = 0.01
    batch = await world.batch(chats(100))
    async with running(world.scheduler()):
        ended = await world.ended(batch)
        await poll(lambda: _is_gone(world.store.order_path(batch.id).parent))
    output, errors = await world.results(ended)
    assert ended.status is BatchStatus.COMPLETED
    assert [line["custom_id"] for line in output] == [f"row-{no}" for no in range(100)]
    assert output[7]["response"]["body"]["choices"][0]["message"]["content"] == "QUESTION 7"
    assert errors == []
    assert (ended.counts.total, ended.counts.completed, ended.counts.failed) == (100, 100, 0)
    assert (ended.usage.input_tokens, ended.usage.cached_tokens, ended.usage.output_tokens) == (300, 100, 200)
    assert engine.inflight_max == 32
    assert len(engine.asked) == 100


async def _is_gone(folder: Path) -> bool:
    return not folder.exists()


async def test_the_simulated_engine_answers_a_batch_of_mixed_lines(world: World) -> None:
    engine = SimulatedEngine("sim", CPU_135M, models=[simulated_model("smol", CPU_135M)])
    world.registry = registry_of(engine)
    await engine.start()
    lines = [chat(f"row-{no}", f"question {no}", n=1 + no % 3) for no in range(60)]
    lines.append(chat("too long", "far too long " * 5_000))
    batch = await world.batch(lines)
    async with running(world.scheduler()):
        ended = await world.ended(batch)
    output, errors = await world.results(ended)
    assert [len(line["response"]["body"]["choices"]) for line in output] == [1 + no % 3 for no in range(60)]
    assert [(line["custom_id"], line["response"]["status_code"]) for line in errors] == [("too long", 400)]
    await engine.stop()


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
    assert (ended.errors_total, ended.output_file_id) == (3, None)
    listed = await world.lines(ended.error_file_id)
    assert [line["error"] for line in listed] == [
        {"code": error.code, "message": error.message, "param": error.param, "line": error.line}
        for error in ended.errors
    ]


async def test_a_refused_line_goes_to_the_error_file_with_its_answer(world: World, engine: TestEngine) -> None:
    def refuse_one(request):  # type: ignore[no-untyped-def]
        if b"question 3" in request.body:
            return EngineResult(
                400, b'{"error":{"message":"no","type":"invalid_request_error","param":null,"code":null}}'
            )
        return EngineResult(200, b"{}")

    engine.respond = refuse_one
    batch = await world.batch(chats(5))
    async with running(world.scheduler()):
        ended = await world.ended(batch)
    output, errors = await world.results(ended)
    assert len(output) == 4
    assert [line["custom_id"] for line in errors] == ["row-3"]
    assert errors[0]["response"]["body"]["error"]["message"] == "no"
    assert errors[0]["error"] is None
    assert len(engine.asked) == 5


async def test_a_server_error_is_tried_again_a_bounded_number_of_times(world: World, engine: TestEngine) -> None:
    asked: dict[bytes, int] = {}

    def flaky(request):  # type: ignore[no-untyped-def]
        asked[request.body] = asked.get(request.body, 0) + 1
        recovers = b"question 1" in request.body and asked[request.body] == 3
        return EngineResult(200, b"{}") if recovers else EngineResult(500, b'{"error":{"message":"broken"}}')

    engine.respond = flaky
    batch = await world.batch(chats(2))
    async with running(world.scheduler()):
        ended = await world.ended(batch)
    output, errors = await world.results(ended)
    assert [line["custom_id"] for line in output] == ["row-1"]
    assert [(line["custom_id"], line["response"]["status_code"]) for line in errors] == [("row-0", 500)]
    assert sorted(asked.values()) == [3, SETTINGS.answer_attempts_max]


async def test_models_of_one_file_run_each_on_its_own_engine(world: World) -> None:
    engines = [TestEngine("a", models=[a_model("smol")]), TestEngine("b", models=[a_model("other")])]
    world.registry = registry_of(*engines)
    batch = await world.batch([chat(f"row-{no}", f"q {no}", model="smol" if no % 2 else "other") for no in range(40)])
    async with running(world.scheduler()):
        ended = await world.ended(batch)
    output, _ = await world.results(ended)
    assert [line["response"]["body"]["model"] for line in output] == ["other", "smol"] * 20
    assert [len(engine.asked) for engine in engines] == [20, 20]


async def test_giant_lines_run_alone_and_small_ones_within_the_budget(world: World) -> None:
    engine = TestEngine(inflight_requests_max=8, inflight_tokens_max=200)
    engine.answer_seconds = 0.005
    world.registry = registry_of(engine)
    batch = await world.batch([*chats(30), chat("wide", n=50), chat("long", max_tokens=2000)])
    async with running(world.scheduler()):
        ended = await world.ended(batch)
    assert ended.counts.completed == 32
    assert engine.inflight_max == 50


async def test_every_step_of_the_walk_is_marked_in_order(world: World) -> None:
    seen: list[str] = []
    markers.install(seen.append)
    try:
        batch = await world.batch(chats(3))
        async with running(world.scheduler()):
            await world.ended(batch)
    finally:
        markers.install(None)
    of_the_scheduler = [name for name in markers.MARKERS if name.split(".")[0] not in {"upload", "batch", "event"}]
    assert [name for name in dict.fromkeys(seen) if name in of_the_scheduler] == of_the_scheduler


async def test_result_files_expire_as_the_batch_asked(world: World) -> None:
    batch = await world.batch(chats(1), output_expires_after_seconds=3600)
    async with running(world.scheduler()):
        ended = await world.ended(batch)
    assert ended.output_file_id is not None
    file = await world.store.files.get("t", ended.output_file_id)
    assert file is not None
    assert (file.purpose, file.filename) == ("batch_output", f"{batch.id}_output.jsonl")
    assert file.expires_at == file.created_at + 3600


async def test_a_batch_without_engine_waits_and_says_so_and_goes_on(world: World, engine: TestEngine) -> None:
    engine.change(EngineState.DOWN, "down since 03:10, 4 starts, out of memory")
    batch = await world.batch(chats(4))
    async with running(world.scheduler()):
        paused = await world.until(batch, lambda found: found.paused_at is not None)
        assert "out of memory" in (paused.pause_reason or "")
        engine.change(EngineState.READY)
        ended = await world.ended(batch)
    assert (ended.status, ended.paused_at) == (BatchStatus.COMPLETED, None)


async def test_many_small_batches_all_end(world: World) -> None:
    batches = [await world.batch(chats(no % 5 + 1)) for no in range(30)]
    async with running(world.scheduler()):
        ended = [await world.ended(batch) for batch in batches]
    assert [batch.counts.completed for batch in ended] == [no % 5 + 1 for no in range(30)]


@pytest.mark.parametrize("name", ["shard_lines_max", "lease_seconds", "append_interval_ms", "retry_seconds_min"])
def test_a_limit_of_nothing_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        SchedulerSettings(**{name: 0})
