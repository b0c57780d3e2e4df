"""`release`, `hours` and `turns` of a model: what is refused, and what it becomes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from engine.protocol import EngineState
from nightbatch.compose import compose
from nightbatch.config import ConfigError, load
from nightbatch.engine_names import EngineNames
from nightbatch.lives import describe, lives_of, name_engines
from scheduler.facts.hours import Hours
from scheduler.policy.life import Release

WINDOWS = '[windows]\ntimezone = "Europe/Berlin"\n[[windows.off_peak]]\nstart = "22:00"\nend = "06:00"\n'
SIMULATED = 'engine = "simulated"\nprofile = "cpu-135m"\n'


def write(tmp_path: Path, *models: str, windows: str = WINDOWS) -> Path:
    file = tmp_path / "nightbatch.toml"
    tables = [f'[[models]]\nid = "m{number}"\n{SIMULATED}{keys}\n' for number, keys in enumerate(models, start=1)]
    file.write_text(f'[store]\nfolder = "{tmp_path / "data"}"\n{windows}{"".join(tables)}')
    return file


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ('hours = "peak"', 'hours needs release = "stop" (or "sleep" on CUDA): this model is never released'),
        ('turns = "gpu"', "turns needs release"),
        ("drain_seconds = 5", "drain_seconds needs release"),
        ('release = "stop"\nhours = "always"', 'leaves nothing to release = "stop"'),
        ('release = "stop"\nsleep_level = 2', 'sleep_level needs release = "sleep"'),
        ('release = "off"', "release: input should be 'never', 'sleep' or 'stop'"),
        ('release = "stop"\nhours = "night"', "hours: input should be 'always', 'off-peak' or 'peak'"),
    ],
)
def test_keys_that_contradict_each_other_are_refused_where_they_stand(tmp_path: Path, keys: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(write(tmp_path, keys), environment={})
    (problem,) = refused.value.problems
    assert says in problem
    assert " line " in problem


def test_a_model_by_the_clock_needs_windows_and_the_line_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"line 7: models\[1\].release: m1 is there by the clock, and no") as refused:
        load(write(tmp_path, 'release = "stop"', windows=""), environment={})
    assert len(refused.value.problems) == 1


def test_a_turn_group_of_one_is_refused_where_it_is_named(tmp_path: Path) -> None:
    config = write(tmp_path, 'release = "stop"\nturns = "gpu"', 'release = "stop"\nturns = "gup"')
    with pytest.raises(ConfigError, match=r"line \d+: models\[1\].turns: m1 is alone in 'gpu'"):
        load(config, environment={})


def test_an_upstream_comes_and_goes_by_itself(tmp_path: Path) -> None:
    file = tmp_path / "nightbatch.toml"
    file.write_text('[[models]]\nid = "a"\nengine = "remote"\nupstreams = ["http://a/v1"]\nrelease = "stop"\n')
    with pytest.raises(ConfigError, match="release is for engines that this server starts"):
        load(file, environment={})


def test_a_cpu_does_not_sleep(tmp_path: Path) -> None:
    file = tmp_path / "nightbatch.toml"
    file.write_text(WINDOWS + '[[models]]\nid = "a"\ndevice = "cpu"\nrelease = "sleep"\n')
    with pytest.raises(ConfigError, match='release = "sleep" needs CUDA; on a CPU use "stop"'):
        load(file, environment={})


def test_what_is_not_said_is_chosen(tmp_path: Path) -> None:
    config = load(
        write(
            tmp_path,
            'release = "stop"\nreplicas = 2\ndrain_seconds = 5',
            'release = "sleep"\nhours = "peak"',
            'release = "stop"\nturns = "gpu"',
            'release = "stop"\nturns = "gpu"\nhours = "off-peak"',
            "",
        ),
        environment={},
    )
    night, day, home, guest = lives_of(config.served, name_engines(config.served, EngineNames()))
    assert (night.hours, night.release, night.engines, night.drain_seconds) == (
        Hours.OFF_PEAK,
        Release.STOP,
        ("m1-1", "m1-2"),
        5,
    )
    assert (day.hours, day.release, home.hours, guest.hours) == (
        Hours.PEAK,
        Release.SLEEP,
        Hours.ALWAYS,
        Hours.OFF_PEAK,
    )
    assert describe(night) == "in off-peak windows only; then it stops"
    assert describe(guest) == "in off-peak windows only, in turns with the others of 'gpu'; then it stops"


async def test_a_server_leaves_led_engines_to_the_scheduler_and_starts_the_others(tmp_path: Path) -> None:
    config = load(write(tmp_path, 'release = "stop"', ""), environment={})
    house = await compose(config, environment={}, now=lambda: 1_795_950_000.0)  # a Sunday at noon
    changed = asyncio.Event()
    house.registry.on_change(changed.set)
    try:
        await house.registry.start()
        led, always = house.registry.engines()
        async with asyncio.timeout(10):
            while always.status().state is not EngineState.READY:
                changed.clear()
                await changed.wait()
        assert (led.name, led.status().state) == ("m1", EngineState.STOPPED)
        assert house.fleet.models[0].endswith("1 x real time, in off-peak windows only; then it stops")
    finally:
        await house.registry.stop()
        await house.store.close()
