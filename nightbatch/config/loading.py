"""From flags, environment and file to one Config."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError, create_model
from pydantic_settings import BaseSettings, EnvSettingsSource
from pydantic_settings.exceptions import SettingsError
from pydantic_settings.sources.utils import parse_env_vars

from nightbatch.config.flags import ServeFlags
from nightbatch.config.refusals import ConfigError, Origins, explain, known_keys
from nightbatch.config.sections import Config

FILE_NAME = "nightbatch.toml"
PREFIX = "NIGHTBATCH_"

OTHER_VARIABLES = frozenset({"URL", "API_KEY", "CONFIG", "CACHE", "ENGINE", "KILL_AT"})
"""Ours too, but no settings of a server."""

KUBERNETES = ("PORT", "PORT_", "SERVICE_")
"""A Kubernetes service named nightbatch puts NIGHTBATCH_PORT=tcp://... and others into every pod: not meant for us."""


def load(
    file: Path | None = None,
    *,
    flags: ServeFlags | None = None,
    environment: Mapping[str, str] | None = None,
) -> Config:
    """`file` None means no file at all: `find_file` says which one counts. Raises ConfigError with every problem."""
    environment = os.environ if environment is None else environment
    text = _read(file) if file else ""
    origins = Origins(
        flags=(flags or ServeFlags()).layer(),
        environment=_environment_layer(environment),
        file=_parse(text, file),
        file_path=file,
        file_text=text,
    )
    merged = _over(_over(origins.file, origins.environment), origins.flags)
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise explain(error, Config, origins) from None


def find_file(given: Path | None, environment: Mapping[str, str] | None = None) -> Path | None:
    """The file that counts: the flag, NIGHTBATCH_CONFIG, ./nightbatch.toml, the user's, the machine's, or none.

    A file that was named must exist; ConfigError otherwise.
    """
    environment = os.environ if environment is None else environment
    named = given or (Path(environment["NIGHTBATCH_CONFIG"]) if environment.get("NIGHTBATCH_CONFIG") else None)
    if named is not None:
        if not named.is_file():
            raise ConfigError([f"{named}: there is no such configuration file"])
        return named
    home = Path(environment.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    places = (Path(FILE_NAME), home / "nightbatch" / FILE_NAME, Path("/etc/nightbatch") / FILE_NAME)
    return next((place for place in places if place.is_file()), None)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{file}: cannot be read: {error}"]) from None


def _parse(text: str, file: Path | None) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{file}: is not TOML: {error}"]) from None


def _environment_layer(environment: Mapping[str, str]) -> dict[str, Any]:
    _refuse_unknown(environment)
    fields: dict[str, Any] = {name: (field.annotation, None) for name, field in Config.model_fields.items()}
    shape: type[BaseSettings] = create_model("Environment", __base__=BaseSettings, **fields)
    source = EnvSettingsSource(shape, env_prefix=PREFIX, env_nested_delimiter="__", env_ignore_empty=True)
    source.env_vars = parse_env_vars(environment, case_sensitive=False, ignore_empty=True)
    try:
        return source()
    except SettingsError as error:
        raise ConfigError([f"environment: {error}: lists and tables are written as JSON"]) from None


def _refuse_unknown(environment: Mapping[str, str]) -> None:
    """pydantic-settings passes over names it does not know; a typo must not be passed over."""
    sections = known_keys(Config, ())
    problems = []
    for name in environment:
        rest = name.upper().removeprefix(PREFIX)
        if not name.upper().startswith(PREFIX) or rest in OTHER_VARIABLES:
            continue
        section = rest.split("__")[0].lower()
        if section in sections or (rest.startswith(KUBERNETES) and "__" not in rest):
            continue
        close = difflib.get_close_matches(section, sections, n=1)
        hint = f"did you mean {PREFIX}{close[0].upper()}__...?" if close else f"known sections: {', '.join(sections)}"
        problems.append(f"environment: {name}: unknown setting ({hint})")
    if problems:
        raise ConfigError(problems)


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Tables are merged key by key; everything else, lists too, is replaced."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = _over(under, value) if isinstance(under, Mapping) and isinstance(value, Mapping) else value
    return merged
