"""Several engines of one model: lines that begin alike go to one of them, and no slot stays empty for that."""

from __future__ import annotations

import json
from collections import Counter
from itertools import count

import numpy as np
import pytest

from engine.selection import home_of
from store.lines import LineFacts, check_line
from tests.scheduler.world import TestEngine, World, chat, poll, registry_of, running

NAMES = ("a", "b")
GROUP_LINES = 40
SLOTS = 4


def texts_with_homes() -> dict[str, str]:
    """A text of 300 bytes for each engine that is its prefix's home."""
    found: dict[str, str] = {}
    for no in count():
        text = f"{no:03d}" * 100
        facts = check_line(json.dumps(chat("one", text)).encode(), line=1)
        assert isinstance(facts, LineFacts)
        found.setdefault(home_of(int(np.frombuffer(facts.ladder, "<u8")[0]), NAMES), text)
        if len(found) == len(NAMES):
            return found
    raise AssertionError


def homes_asked(engine: TestEngine, homes: dict[str, str]) -> Counter[str]:
    """What an engine was asked, by the home of it."""
    texts = [json.loads(body)["messages"][0]["content"][:300] for body in engine.asked]
    by_text = {text: name for name, text in homes.items()}
    return Counter(by_text[text] for text in texts)


@pytest.fixture
def engines() -> list[TestEngine]:
    return [TestEngine(name, inflight_requests_max=SLOTS) for name in NAMES]


async def test_each_engine_gets_the_lines_of_its_own_prefixes(world: World, engines: list[TestEngine]) -> None:
    homes = texts_with_homes()
    world.registry = registry_of(*engines)
    for engine in engines:
        engine.answer_seconds = 0.01
    lines = [chat(f"{name}-{no}", f"{homes[name]} {no}") for no in range(GROUP_LINES) for name in NAMES]
    async with running(world.scheduler(shard_lines_max=256)):
        batch = await world.ended(await world.batch(lines))
    assert batch.counts.completed == len(lines)
    for engine in engines:
        asked = homes_asked(engine, homes)
        assert asked[engine.name] >= 0.75 * asked.total(), asked


async def test_an_engine_without_prefixes_of_its_own_takes_those_of_others(
    world: World, engines: list[TestEngine]
) -> None:
    homes = texts_with_homes()
    world.registry = registry_of(*engines)
    for engine in engines:
        engine.hold()
    lines = [chat(f"row-{no}", f"{homes['a']} {no}") for no in range(GROUP_LINES)]
    async with running(world.scheduler(shard_lines_max=256)):
        batch = await world.batch(lines)

        async def are_full() -> bool:
            return all(engine.inflight == SLOTS for engine in engines)

        await poll(are_full)
        for engine in engines:
            engine.let_go()
        assert (await world.ended(batch)).counts.completed == len(lines)
