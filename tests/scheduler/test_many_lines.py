"""What a file of very many lines must not do: stall planning, hold memory, or let one bad line harm the others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.simulated import PROFILES, SimulatedEngine, simulated_model
from scheduler.facts.estimates import LineSize, kv_tokens
from scheduler.policy.packer import budget_of
from store import BatchStatus, Store
from tests.scheduler.world import SETTINGS, World, chat, registry_of, running

PROFILE = PROFILES["instant"]
CONTEXT_TOKENS = 256


def small_context() -> SimulatedEngine:
    return SimulatedEngine(
        "e", PROFILE, models=[replace(simulated_model("smol", PROFILE), context_tokens_max=CONTEXT_TOKENS)]
    )


async def test_a_prompt_longer_than_the_context_fails_alone_with_its_line(world: World) -> None:
    store: Store = world.store
    engine = small_context()
    await engine.start()
    too_long = {7, 640, 1_499}
    lines = [chat(f"row-{no}", "long " * 2_000 if no in too_long else f"question {no}") for no in range(1_500)]
    several = World(store, registry_of(engine), replace(SETTINGS, shard_lines_max=512, lease_seconds=30.0))
    batch = await several.batch(lines)
    async with running(several.scheduler()):
        ended = await several.ended(batch)
    output, errors = await several.results(ended)
    assert (ended.status, ended.counts.completed, ended.counts.failed) == (BatchStatus.COMPLETED, 1_497, 3)
    assert [line["custom_id"] for line in errors] == [f"row-{no}" for no in sorted(too_long)]
    assert {line["response"]["body"]["error"]["code"] for line in errors} == {"context_length_exceeded"}
    assert [line["custom_id"] for line in output] == [f"row-{no}" for no in range(1_500) if no not in too_long]


@pytest.mark.parametrize(
    ("prompt_bytes", "tokens"), [(300, 116), (3 * 200, 216), (3 * 300, 256), (3 * 4 * 256, 256), (3 * 4 * 256 + 1, 1)]
)
def test_what_is_far_too_long_needs_no_memory_of_an_engine(prompt_bytes: int, tokens: int) -> None:
    size = LineSize(prompt_bytes, output_tokens=16, sub_requests=1)
    found = kv_tokens(size, bytes_per_token=3.0, output_tokens_assumed=256, context_tokens_max=CONTEXT_TOKENS)
    assert found == tokens


def test_a_budget_of_one_context_takes_many_prompts_that_are_far_too_long() -> None:
    limits = small_context().limits()
    budget = budget_of(replace(limits, inflight_tokens_max=CONTEXT_TOKENS), requests_multiple=1, tokens_multiple=1)
    size = LineSize(1_000_000, output_tokens=16, sub_requests=1)
    each = kv_tokens(size, bytes_per_token=3.0, output_tokens_assumed=256, context_tokens_max=CONTEXT_TOKENS)
    assert budget.tokens_max is not None
    assert each * 100 < budget.tokens_max
