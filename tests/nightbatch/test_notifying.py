"""Webhooks and the local command in the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from nightbatch.compose import targets
from nightbatch.config import Config, ConfigError, load

HOOK = """[[webhooks]]
name = "ops"
url = "https://example.com/hook"
secrets = ["whsec_a2V5"]
"""


def loaded(folder: Path, text: str) -> Config:
    path = folder / "nightbatch.toml"
    path.write_text(text, encoding="utf-8")
    return load(path, environment={})


def test_webhooks_and_a_command_become_targets(tmp_path: Path) -> None:
    config = loaded(tmp_path, HOOK + 'events = ["batch.failed"]\n[events]\non_event = ["notify-send", "batch"]\n')
    assert [target.name for target in targets(config, {}, lambda: 0.0)] == ["ops", "on_event"]


def test_a_secret_may_come_from_the_environment(tmp_path: Path) -> None:
    config = loaded(tmp_path, HOOK.replace('secrets = ["whsec_a2V5"]', 'secret_env = "HOOK_SECRET"'))
    assert len(targets(config, {"HOOK_SECRET": "text"}, lambda: 0.0)) == 1
    with pytest.raises(ConfigError, match="ops: the secret in the variable HOOK_SECRET cannot be used: it is empty"):
        targets(config, {}, lambda: 0.0)


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    assert "whsec_a2V5" not in repr(loaded(tmp_path, HOOK))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("https://example.com/hook", "example.com"), "is no URL: write it as https://example.com/hook"),
        (("https://", "http://"), "url is http: use https, or set allow_private = true"),
        (('secrets = ["whsec_a2V5"]', ""), "a secret is missing"),
        (("whsec_a2V5", "whsec_%"), "secret 1 cannot be used: what follows whsec_ is not base64"),
        (('name = "ops"', 'name = "ops"\nevents = ["batch.started"]'), "webhooks[1].events"),
        (('name = "ops"', 'name = "ops"\nsecret = "x"'), "unknown key webhooks[1].secret"),
    ],
)
def test_what_cannot_be_delivered_is_refused_at_the_start(tmp_path: Path, change: tuple[str, str], reason: str) -> None:
    with pytest.raises(ConfigError) as refused:
        loaded(tmp_path, HOOK.replace(*change))
    assert reason in str(refused.value)
    assert "line " in str(refused.value)


def test_two_webhooks_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two have the same name"):
        loaded(tmp_path, HOOK + HOOK)


def test_a_webhook_for_a_tenant_that_nobody_is_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ops is for the tenant search, which is none of \[\[tenants\]\]: none"):
        loaded(tmp_path, HOOK + 'tenant = "search"\n')


def test_a_webhook_is_not_called_as_the_command_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="on_event is the name of the local command"):
        loaded(tmp_path, HOOK.replace('"ops"', '"on_event"'))
