"""From the configuration to the outside signal that a server, or `nightbatch windows`, looks at."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nightbatch.config import ConfigError
from nightbatch.config.signal import SignalConfig
from nightbatch.config.windows import WindowsSection
from scheduler.actors.signal import Signal
from scheduler.actors.signal_sources import FileSource, Source, UrlSource
from scheduler.policy.outside_signal import Condition, SignalRules


def outside_signal(section: WindowsSection, environment: Mapping[str, str], now: Callable[[], float]) -> Signal | None:
    """None when none is configured. ConfigError when its token is not where the configuration says."""
    config = section.signal
    if config is None:
        return None
    rules = SignalRules(
        name=config.name,
        condition=Condition(
            json_path=config.json_path,
            regex=config.regex,
            hold_above=config.hold_above,
            hold_below=config.hold_below,
            busy_when=config.busy_when,
            resume_margin=config.resume_margin,
        ),
        stale_after_seconds=config.stale_after_seconds,
        hold_on_failure=config.on_failure == "hold",
        zone=section.calendar().zone,
    )
    return Signal(rules, _source(config, environment, now), every_seconds=config.every_seconds, now=now)


def _source(config: SignalConfig, environment: Mapping[str, str], now: Callable[[], float]) -> Source:
    if config.file is not None:
        return FileSource(
            config.file.expanduser(),
            age_seconds_max=config.file_seconds_max,
            seconds_max=config.timeout_seconds,
            now=now,
        )
    assert config.url is not None
    return UrlSource(
        config.url,
        headers=_headers(config, environment),
        allow_private=config.allow_private,
        seconds_max=config.timeout_seconds,
    )


def _headers(config: SignalConfig, environment: Mapping[str, str]) -> dict[str, str]:
    if config.token_env is None:
        return {}
    token = environment.get(config.token_env, "").strip()
    if not token or not token.isprintable():
        raise ConfigError([f"windows.signal: the variable {config.token_env} holds no token"])
    return {"authorization": f"Bearer {token}"}
