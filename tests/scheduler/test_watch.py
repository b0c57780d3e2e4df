"""What one look at the world lists of batches of several models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from engine.protocol import EngineState
from scheduler.actors.inputs import Inputs
from scheduler.actors.measures import Measures
from scheduler.actors.watch import Watch
from scheduler.policy.terms import Terms
from store import StoreSettings, open_store
from tests.scheduler.world import SETTINGS, TestEngine, World, a_model, chat, registry_of, running


async def test_a_batch_asks_for_all_of_its_models_while_none_of_them_is_there(tmp_path: Path) -> None:
    """The shards of one model fill the list: the other would never have its turn if its engine does not come."""
    engines = [TestEngine(name, models=(a_model(name),)) for name in ("one", "two")]
    settings = StoreSettings(disk_reserve_bytes=1024, index_workers_max=1)
    async with await open_store(tmp_path / "data", settings=settings) as store:
        world = World(store, registry_of(*engines), SETTINGS)
        for engine in engines:
            engine.change(EngineState.STOPPED)
        lines = [chat(f"{name}-{no}", model=name) for name in ("one", "two") for no in range(100)]
        batch = await world.batch(lines)
        async with running(world.scheduler()):
            batch = await world.until(batch, lambda found: found.pause_reason is not None)
        listing, terms = replace(SETTINGS, shards_listed_per_batch_max=2), Terms()
        watch = Watch(store, world.registry, listing, Measures(world.registry, listing, Inputs(store), terms), terms)
        listed = [shard.model for shard in await watch.shards_of([batch])]
        assert (len(listed), set(listed)) == (3, {"one", "two"})
        engines[1].change(EngineState.READY)
        assert [shard.model for shard in await watch.shards_of([batch])].count("two") > 2
