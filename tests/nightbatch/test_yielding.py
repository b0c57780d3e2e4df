"""Work on files yields to online requests of this machine's engines, and to no others."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from nightbatch.compose import compose
from nightbatch.config import ConfigError, load
from store.pacing import BURST_BYTES

PATIENCE_SECONDS = 20.0
SIMULATED = """[store]
folder = "{folder}"
intake_mib_per_s_online = 3
download_mib_per_s_online = 5
online_linger_seconds = 0.05
[[models]]
id = "small"
engine = "simulated"
profile = "gpu-8b"
[[models]]
id = "far"
engine = "remote"
upstreams = ["http://127.0.0.1:9/v1"]
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "nightbatch.toml"
    path.write_text(text, encoding="utf-8")
    return path


async def test_files_are_worked_on_slowly_while_an_online_request_runs_here(tmp_path: Path) -> None:
    config = load(written(tmp_path, SIMULATED.format(folder=tmp_path / "data")), environment={})
    house = await compose(config, environment={})
    try:
        (here,) = house.fleet.devices
        (elsewhere,) = {engine.name for engine in house.fleet.engines} - {here}
        paces = (house.store.intake_pace, house.store.download_pace)
        assert not any(pace.is_limited for pace in paces)
        with house.registry.presence.online(elsewhere):
            assert not any(pace.is_limited for pace in paces)
            with house.registry.presence.online(here), house.registry.presence.online(here):
                assert all(pace.is_limited for pace in paces)
            assert all(pace.is_limited for pace in paces)  # the next one often comes soon
            async with asyncio.timeout(PATIENCE_SECONDS):
                await asyncio.gather(*(pace.taken(BURST_BYTES * 1000) for pace in paces))
            assert not any(pace.is_limited for pace in paces)
    finally:
        await house.registry.stop()
        await house.store.close()


@pytest.mark.parametrize("key", ["intake_mib_per_s_online", "download_mib_per_s_online", "online_linger_seconds"])
def test_a_pace_of_nothing_is_refused_with_its_line(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(written(tmp_path, f"[store]\n{key} = 0\n"), environment={})
    assert "nightbatch.toml line 2: " in str(refused.value)
