"""The flags of `nightbatch serve` as one layer over file and environment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightbatch.config.refusals import ConfigError


@dataclass(frozen=True, slots=True)
class ServeFlags:
    """`engine_flags` is what followed `--`. Any of `models`, `upstreams`, `simulate` replaces the file's models."""

    models: Sequence[str] = ()
    upstreams: Sequence[str] = ()
    simulate: Sequence[str] = ()
    engine_flags: Sequence[str] = ()
    host: str | None = None
    port: int | None = None
    data: Path | None = None
    strict_openai: bool | None = None
    log_level: str | None = None

    def layer(self) -> dict[str, Any]:
        values: dict[str, Any] = {
            "server": _given(host=self.host, port=self.port, strict_openai=self.strict_openai),
            "store": _given(folder=self.data),
            "logging": _given(level=self.log_level),
            "models": self._models(),
        }
        return {section: value for section, value in values.items() if value}

    def _models(self) -> list[dict[str, Any]]:
        if self.engine_flags and len(self.models) != 1:
            message = (
                f"flags after -- belong to one --model, and there are {len(self.models)}: "
                "with several models put engine_args in nightbatch.toml"
            )
            raise ConfigError([message])
        models: list[dict[str, Any]] = [_vllm(model) for model in self.models]
        if self.engine_flags:
            models[0]["engine_flags"] = list(self.engine_flags)
        if self.upstreams:
            models.append({"engine": "remote", "upstreams": list(self.upstreams)})
        models += [{"id": profile, "engine": "simulated", "profile": profile} for profile in self.simulate]
        return models


def _given(**values: object) -> dict[str, object]:
    return {name: value for name, value in values.items() if value is not None}


def _vllm(model: str) -> dict[str, Any]:
    """A folder is served under its last name; anything else is a Hugging Face id or an embedded model."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        return {"id": folder.resolve().name, "source": str(folder.resolve())}
    return {"id": model}
