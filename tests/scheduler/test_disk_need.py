"""Disk is forecast before a batch starts: refused where it cannot do, told where it may not."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.protocol import CHAT_COMPLETIONS, EMBEDDINGS, RERANK, ModelKind
from engine.simulated import PROFILES, SimulatedEngine, simulated_model
from scheduler.facts.result_sizes import Accuracy, Asked, ResultSize, result_size
from scheduler.policy.disk_need import judge_disk
from store import BatchStatus, StoreSettings, open_store
from tests.scheduler.world import SETTINGS, World, chat, registry_of, running

GIB, MIB = 1024**3, 1024**2
PROFILE = PROFILES["instant"]


def judged(size: ResultSize, *, free: float, promised: float = 0) -> tuple[str, str] | None:
    remark = judge_disk(size, free_bytes=int(free), reserve_bytes=GIB, promised_bytes=promised)
    return None if remark is None else (remark.code, remark.message)


def embeddings(lines: int, **fields: Any) -> ResultSize:
    return result_size(Asked(EMBEDDINGS, lines, **fields))


def test_a_million_embeddings_are_forecast_from_their_length_and_form() -> None:
    as_json = embeddings(1_000_000, dimensions=384)
    assert 7.8 * GIB < as_json.likely < 7.9 * GIB
    assert as_json.why == "1,000,000 embeddings of 384 numbers, some 7.9 KiB each as JSON"
    in_base64 = embeddings(1_000_000, dimensions=384, base64_share=1.0)
    assert in_base64.likely < as_json.likely / 3
    assert in_base64.why.endswith("some 2.0 KiB each in base64")
    many_inputs = embeddings(1_000, sub_requests=1_000_000, dimensions=384)
    assert many_inputs.likely == pytest.approx(as_json.likely, rel=0.1)


def test_of_embeddings_of_unknown_length_nothing_is_certain() -> None:
    size = embeddings(1_000_000)
    assert size.least < GIB < size.likely
    assert "probably 1,024 numbers" in size.why


def test_answers_are_forecast_from_their_limits_and_scores_from_their_documents() -> None:
    answers = result_size(Asked(CHAT_COMPLETIONS, 1_000, output_tokens=256_000))
    assert answers.least < answers.likely == 1_000 * 600 + 256_000 * 4.5
    ranked = result_size(Asked(RERANK, 10, sub_requests=100, prompt_bytes=50_000))
    assert ranked.likely == 10 * 600 + 100 * 60 + 50_000


def test_what_certainly_does_not_fit_is_refused_with_the_arithmetic() -> None:
    said = judged(embeddings(1_000_000, dimensions=384), free=6 * GIB)
    assert said is not None
    assert said[0] == "disk_too_small"
    assert said[1] == (
        "The results need at least 9.3 GiB of disk (1,000,000 embeddings of 384 numbers, some 7.9 KiB each as JSON; "
        "twice, since the output file is made of what was recorded), and 5 GiB of the disk are free above the reserve. "
        "Delete files, enlarge the disk, or send fewer lines at once."
    )


def test_what_probably_does_not_fit_beside_what_runs_is_told() -> None:
    size = embeddings(1_000_000, dimensions=384)
    assert judged(size, free=18 * GIB) is None
    said = judged(size, free=18 * GIB, promised=3 * GIB)
    assert said is not None
    assert said[0] == "disk_may_fill_up"
    assert "14 GiB of the disk are free above the reserve and the results of running batches (3 GiB)" in said[1]


def test_a_small_batch_is_never_refused_for_a_disk_that_is_full_just_now() -> None:
    said = judged(result_size(Asked(CHAT_COMPLETIONS, 40, output_tokens=640)), free=100)
    assert said is not None
    assert said[0] == "disk_may_fill_up"


@settings(deadline=None)
@given(st.floats(0, 1e15), st.floats(0, 1e15), st.integers(0, 10**15), st.floats(0, 1e15))
def test_more_room_never_makes_a_judgement_worse(least: float, more: float, free: int, promised: float) -> None:
    worse = {None: 0, "disk_may_fill_up": 1, "disk_too_small": 2}
    size = ResultSize(least, least + more, "something")
    said = judged(size, free=free, promised=promised)
    roomier = judged(size, free=2 * free + GIB, promised=promised)
    assert worse[roomier[0] if roomier else None] <= worse[said[0] if said else None]


def test_a_forecast_is_corrected_once_enough_is_measured() -> None:
    accuracy = Accuracy()
    accuracy.add(100, forecast=1_000, written=250)
    assert accuracy.ratio == 1.0
    accuracy.add(150, forecast=1_000, written=250)
    assert accuracy.ratio == pytest.approx(0.25)


class Free:
    bytes = 100 * GIB


@pytest.fixture
def free() -> Free:
    return Free()


@pytest.fixture
async def world(tmp_path: Path, free: Free) -> AsyncIterator[World]:
    settings = StoreSettings(index_workers_max=1, disk_reserve_bytes=MIB)
    engine = SimulatedEngine(
        "e", PROFILE, models=[simulated_model("smol", PROFILE), simulated_model("embed", PROFILE, ModelKind.POOLING)]
    )
    await engine.start()
    async with await open_store(tmp_path / "data", settings=settings, free_bytes_of=lambda _: free.bytes) as store:
        yield World(store, registry_of(engine), replace(SETTINGS, shard_lines_max=512, lease_seconds=30.0))
    await engine.stop()


def embedding(no: int, **fields: Any) -> dict[str, Any]:
    body = {"model": "embed", "input": f"text {no}", **fields}
    return {"custom_id": f"row-{no}", "method": "POST", "url": EMBEDDINGS, "body": body}


async def test_a_batch_that_cannot_fit_fails_before_anything_of_it_runs(world: World, free: Free) -> None:
    free.bytes = 2 * MIB
    batch = await world.batch([embedding(no) for no in range(300)], endpoint=EMBEDDINGS)
    async with running(world.scheduler()):
        ended = await world.ended(batch)
    assert ended.status is BatchStatus.FAILED
    (error,) = ended.errors
    assert (error.code, error.param) == ("disk_too_small", "input_file_id")
    assert "300 embeddings of 384 numbers" in error.message
    assert ended.counts.completed == 0


async def test_a_batch_that_may_not_fit_runs_with_a_warning(world: World, free: Free) -> None:
    free.bytes = 5 * MIB
    batch = await world.batch([embedding(no) for no in range(300)], endpoint=EMBEDDINGS)
    async with running(world.scheduler()):
        shown = await world.until(batch, lambda found: found.warnings is not None)
        free.bytes = 100 * GIB
        ended = await world.ended(batch)
    (warning,) = json.loads(shown.warnings or "")
    assert warning["code"] == "disk_may_fill_up"
    assert (ended.status, ended.counts.completed) == (BatchStatus.COMPLETED, 300)


async def test_bodies_say_how_long_embeddings_are_and_in_which_form(world: World, free: Free) -> None:
    free.bytes = 5 * MIB
    short = await world.batch([embedding(no, dimensions=32) for no in range(300)], endpoint=EMBEDDINGS)
    in_base64 = await world.batch([embedding(no, encoding_format="base64") for no in range(300)], endpoint=EMBEDDINGS)
    async with running(world.scheduler()):
        ended = [await world.ended(batch) for batch in (short, in_base64)]
    assert [batch.warnings for batch in ended] == [None, None]


async def test_bounds_that_answers_stay_below_are_learnt(world: World, free: Free) -> None:
    """A thousand tokens each are allowed, and a handful are written."""
    lines = [chat(f"row-{no}", f"question {no}", max_tokens=1_000) for no in range(240)]
    first = await world.batch(lines)
    async with running(world.scheduler()):
        await world.ended(first)
        free.bytes = 3 * MIB
        second = await world.ended(await world.batch(lines))
    assert second.warnings is None


async def test_without_experience_the_bounds_count(world: World, free: Free) -> None:
    free.bytes = 3 * MIB
    batch = await world.batch([chat(f"row-{no}", f"question {no}", max_tokens=1_000) for no in range(240)])
    async with running(world.scheduler()):
        shown = await world.until(batch, lambda found: found.warnings is not None)
    assert "240 answers with up to 240,000 tokens" in (shown.warnings or "")
