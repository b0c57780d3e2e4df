"""Where a setting comes from, and which layer wins."""

from __future__ import annotations

from pathlib import Path

import pytest

from nightbatch.config import EMBEDDED, Config, ConfigError, ServeFlags, find_file, load


def written(folder: Path, text: str) -> Path:
    file = folder / "nightbatch.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_without_anything_the_defaults_hold_and_the_embedded_models_are_served() -> None:
    config = load(environment={})
    assert config == Config()
    assert config.server.host == "127.0.0.1"
    assert config.served == EMBEDDED
    assert {name: tier.seconds for name, tier in config.tiers.items()} == {"1h": 3600, "24h": 86400, "7d": 604800}


def test_flags_win_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    file = written(tmp_path, '[server]\nport = 1001\nhost = "file"\ndrain_seconds = 5\n')
    environment = {"NIGHTBATCH_SERVER__PORT": "1002", "NIGHTBATCH_SERVER__HOST": "environment"}
    config = load(file, flags=ServeFlags(port=1003), environment=environment)
    assert (config.server.port, config.server.host, config.server.drain_seconds) == (1003, "environment", 5)
    assert config.server.json_body_mib_max == 64


def test_lists_in_the_environment_are_json() -> None:
    config = load(
        environment={"NIGHTBATCH_MODELS": '[{"id": "a"}, {"engine": "remote", "upstreams": ["http://b/v1"]}]'}
    )
    assert [model.engine for model in config.served] == ["vllm", "remote"]


def test_an_empty_variable_sets_nothing() -> None:
    assert load(environment={"NIGHTBATCH_SERVER__PORT": ""}) == Config()


def test_one_key_of_a_tier_leaves_its_other_keys(tmp_path: Path) -> None:
    file = written(
        tmp_path, "[tiers.24h]\ndiscount = 0.4\n[tiers.1h]\noffered = false\n[tiers.night]\nseconds = 30000\n"
    )
    tiers = load(file, environment={"NIGHTBATCH_TIERS__24H__ON_DEADLINE": "continue"}).tiers
    assert (tiers["24h"].seconds, tiers["24h"].discount, tiers["24h"].on_deadline) == (86400, 0.4, "continue")
    assert not tiers["1h"].offered
    assert tiers["night"].seconds == 30000


def test_model_flags_replace_the_models_of_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    file = written(tmp_path, '[[models]]\nid = "from-file"\n')
    flags = ServeFlags(
        models=["Qwen/Qwen3-8B", str(folder)], upstreams=["http://a/v1/", "http://b/v1"], simulate=["gpu-8b"]
    )
    hub, local, remote, simulated = load(file, flags=flags, environment={}).served
    assert (hub.name, hub.weights) == ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B")
    assert (local.name, local.weights) == ("my-model", str(folder.resolve()))
    assert (remote.name, remote.upstreams) == (None, ("http://a/v1", "http://b/v1"))
    assert (simulated.name, simulated.profile) == ("gpu-8b", "gpu-8b")


def test_flags_after_the_dashes_go_to_the_one_model_unchanged() -> None:
    flags = ServeFlags(models=["m"], engine_flags=["--max-model-len", "8192", "--enforce-eager"])
    assert load(flags=flags, environment={}).served[0].engine_flags == ("--max-model-len", "8192", "--enforce-eager")


@pytest.mark.parametrize("models", [[], ["a", "b"]])
def test_flags_after_the_dashes_need_exactly_one_model(models: list[str]) -> None:
    with pytest.raises(ConfigError, match=rf"belong to one --model, and there are {len(models)}"):
        load(flags=ServeFlags(models=models, engine_flags=["--enforce-eager"]), environment={})


def test_aliases_of_models_and_of_the_section_come_together(tmp_path: Path) -> None:
    file = written(tmp_path, '[[models]]\nid = "m"\naliases = ["a"]\n[aliases]\nb = "m"\n')
    assert load(file, environment={}).names == {"a": "m", "b": "m"}


def test_the_data_folder_is_absolute_and_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert Config().store.folder == tmp_path / ".local/share/nightbatch"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    assert Config().store.folder == tmp_path / "xdg/nightbatch"
    assert load(flags=ServeFlags(data=Path("~/d")), environment={}).store.folder == tmp_path / "d"


def test_the_file_is_looked_for_from_the_nearest_place_outwards(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    environment = {"XDG_CONFIG_HOME": str(tmp_path / "xdg")}
    assert find_file(None, environment) is None or str(find_file(None, environment)).startswith("/etc")
    (tmp_path / "xdg/nightbatch").mkdir(parents=True)
    users = written(tmp_path / "xdg/nightbatch", "")
    assert find_file(None, environment) == users
    here = written(tmp_path, "")
    assert find_file(None, environment) == Path(here.name)
    named = tmp_path / "named.toml"
    named.touch()
    assert find_file(None, {**environment, "NIGHTBATCH_CONFIG": str(named)}) == named
    assert find_file(users, {**environment, "NIGHTBATCH_CONFIG": str(named)}) == users


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such configuration file"):
        find_file(tmp_path / "none.toml", {})


def test_the_strict_profile_is_a_key_a_variable_and_a_flag(tmp_path: Path) -> None:
    assert not load(environment={}).server.strict_openai
    assert load(written(tmp_path, "[server]\nstrict_openai = true\n"), environment={}).server.strict_openai
    assert load(environment={"NIGHTBATCH_SERVER__STRICT_OPENAI": "true"}).server.strict_openai
    assert load(flags=ServeFlags(strict_openai=True), environment={}).server.strict_openai
    with pytest.raises(ConfigError, match="24h must be offered"):
        load(flags=ServeFlags(strict_openai=True), environment={"NIGHTBATCH_TIERS": '{"24h": {"offered": false}}'})
