"""The sections of nightbatch.toml: every key, its type, its bounds and its default. Sizes are MiB, times seconds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from nightbatch.config.life import check_lives
from nightbatch.config.model import EMBEDDED, ModelConfig
from nightbatch.config.notifying import EventsSection, WebhookConfig, check_webhooks
from nightbatch.config.online import OnlineSection
from nightbatch.config.reuse import ReuseSection
from nightbatch.config.tiers import AdmissionSection, TierConfig, built_in, check_tiers, over_the_built_in_ones
from nightbatch.config.windows import WindowsSection

HOUR = 3600
DAY = 24 * HOUR
DAYS_MAX = 36_500
"""A hundred years: what is longer is a slip, and a time that a database cannot hold is a failure later."""


def data_folder() -> Path:
    home = os.environ.get("XDG_DATA_HOME")
    return (Path(home) if home else Path.home() / ".local" / "share") / "nightbatch"


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerSection(Section):
    host: str = Field("127.0.0.1", min_length=1, description="address to listen on; `0.0.0.0` is every interface")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    json_body_mib_max: int = Field(64, ge=1, description="largest JSON body of a request (MiB)")
    strict_openai: bool = Field(
        False,
        description="OpenAI's own limits and rules: 50,000 lines, 200 MB, one model per file, `.jsonl`, only `24h`",
    )
    on_invalid_line: Literal["fail", "report"] = Field(
        "fail",
        description="broken lines `fail` their batch, or are its errors while the rest runs (`report`)",
    )
    input_kept_days: float = Field(
        30.0, ge=0, le=DAYS_MAX, description="life of batch inputs, if the client does not say; 0: kept"
    )
    output_kept_days: float = Field(
        30.0, ge=0, le=DAYS_MAX, description="life of results, if the client does not say; 0: kept"
    )
    flex_inflight_max: int = Field(64, ge=1, description="requests of `service_tier` `flex` held open; more get 429")
    flex_beside_online_max: int = Field(
        2, ge=1, description="of those, how many run on a device while an online request is on it"
    )
    drain_seconds: float = Field(
        30.0, ge=0, le=DAY, description="how long a stopping server lets running requests finish"
    )


class StoreSection(Section):
    folder: Path = Field(default_factory=data_folder, description="data folder: metadata, files, results")
    upload_mib_max: int = Field(8192, ge=1, description="largest upload (MiB)")
    line_mib_max: int = Field(16, ge=1, le=2048, description="longest line of a batch input (MiB)")
    lines_max: int = Field(5_000_000, ge=1, le=1_000_000_000, description="most lines of a batch input")
    line_errors_shown_max: int = Field(1000, ge=1, description="most line errors kept with a failed batch")
    index_workers_max: int = Field(2, ge=1, le=64, description="processes that index uploads; more uploads wait")
    intake_mib_per_s_online: float = Field(
        8.0,
        gt=0,
        le=100_000,
        description="while an online request runs: how fast files are taken in, composed and compressed (MiB/s)",
    )
    download_mib_per_s_online: float = Field(
        32.0, gt=0, le=100_000, description="while an online request runs: how fast files go out (MiB/s)"
    )
    online_linger_seconds: float = Field(
        10.0, gt=0, le=HOUR, description="how long after an online request that still holds: the next one may come (s)"
    )
    disk_reserve_mib: int = Field(1024, ge=0, description="disk space that uploads and new work leave free (MiB)")
    readers_max: int = Field(8, ge=1, description="connections that read the metadata at once")

    @field_validator("folder")
    @classmethod
    def _expand(cls, folder: Path) -> Path:
        return folder.expanduser().absolute()


class SchedulerSection(Section):
    packing: Literal["prefix", "file"] = Field(
        "prefix",
        description="lines that begin alike run together, long ones first (`prefix`), or as the `file` has them",
    )
    shard_lines_max: int = Field(
        512,
        ge=1,
        description="most lines of a shard, the unit that is leased; up to twice as many in a file of more than 512 "
        "shards",
    )
    shard_mib_max: int = Field(32, ge=1, description="most input of a shard (MiB)")
    shards_open_max: int = Field(8, ge=1, description="most shards that one engine works on at once")
    lease_seconds: float = Field(30.0, ge=20, le=HOUR, description="how long a lease lasts without being renewed")
    append_interval_ms: float = Field(
        250.0, gt=0, le=5000, description="results of this long are written and flushed together"
    )
    inflight_requests_multiple: float = Field(
        1.0, gt=0, le=100, description="requests in flight, times what an engine runs"
    )
    inflight_tokens_multiple: float = Field(
        1.0, gt=0, le=100, description="KV tokens in flight, times what an engine holds"
    )
    slice_sub_requests_max: int = Field(64, ge=1, description="a line of more inputs is sent in slices of so many")
    predict_lengths: bool = Field(
        True, description="count what lines should need, as former answers tell, and not the most that they may"
    )
    output_tokens_assumed: int = Field(256, ge=1, description="counted for a request that sets no limit of its own")
    answer_attempts_max: int = Field(4, ge=1, description="times a line is sent while its engine answers 5xx")
    intakes_max: int = Field(2, ge=1, description="batches validated at once")
    finalizes_max: int = Field(2, ge=1, description="batches whose result files are composed at once")
    turn_minutes: float = Field(
        30.0, ge=1, le=24 * 60, description="how long a model keeps its turn while another of its group has work too"
    )


class TenantConfig(Section):
    name: str = Field(min_length=1, max_length=64, description="who owns the files and batches")
    weight: float = Field(1.0, gt=0, le=1000, description="its share of the engines, beside the other tenants'")
    key_sha256: tuple[str, ...] = Field(min_length=1, description="SHA-256 (hex) of each of the tenant's API keys")

    @field_validator("key_sha256")
    @classmethod
    def _are_digests(cls, digests: tuple[str, ...]) -> tuple[str, ...]:
        for digest in digests:
            if len(digest) != 64 or not set(digest.lower()) <= set("0123456789abcdef"):
                raise ValueError("a SHA-256 has 64 hexadecimal digits: printf %s KEY | sha256sum")
        return tuple(digest.lower() for digest in digests)


class LoggingSection(Section):
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="least important level shown")
    format: Literal["auto", "text", "json"] = Field("auto", description="`auto`: text on a terminal, JSON otherwise")


class Config(Section):
    """Everything a server is told. `models` empty means the embedded ones, see `served`."""

    server: ServerSection = ServerSection()
    store: StoreSection = Field(default_factory=StoreSection)
    scheduler: SchedulerSection = SchedulerSection()
    models: tuple[ModelConfig, ...] = ()
    aliases: dict[str, str] = Field(default_factory=dict, description="other name -> name of a model")
    tenants: tuple[TenantConfig, ...] = Field((), description="none: one default tenant, no API key asked for")
    tiers: dict[str, TierConfig] = Field(default_factory=built_in)
    admission: AdmissionSection = AdmissionSection()
    online: OnlineSection = OnlineSection()
    reuse: ReuseSection = ReuseSection()
    windows: WindowsSection = WindowsSection()
    webhooks: tuple[WebhookConfig, ...] = Field((), max_length=32, description="who hears of batches that end")
    events: EventsSection = EventsSection()
    logging: LoggingSection = LoggingSection()

    @property
    def served(self) -> tuple[ModelConfig, ...]:
        return self.models or EMBEDDED

    @property
    def names(self) -> dict[str, str]:
        """Alias -> model name, from `[aliases]` and from each model's own list."""
        own = {alias: model.name for model in self.served if model.name for alias in model.aliases}
        return {**own, **self.aliases}

    @field_validator("tiers", mode="before")
    @classmethod
    def _over_the_built_in_ones(cls, given: Any) -> Any:
        return over_the_built_in_ones(given)

    @model_validator(mode="after")
    def _names_are_clear(self) -> Config:
        ids = [model.name for model in self.served if model.name and model.engine != "remote"]
        for name in ids:
            if ids.count(name) > 1:
                raise ValueError(f"models: {name} is there twice; for more engines of one model set replicas")
        taken = set(ids)
        for model in self.served:
            for alias in model.aliases:
                if alias in taken or alias in self.aliases:
                    raise ValueError(f"alias {alias} has two meanings")
                taken.add(alias)
        self._check_targets({name for name in (model.name for model in self.served) if name})
        tenants = [tenant.name for tenant in self.tenants]
        if len(set(tenants)) != len(tenants):
            raise ValueError("tenants: two have the same name")
        digests = [digest for tenant in self.tenants for digest in tenant.key_sha256]
        if len(set(digests)) != len(digests):
            raise ValueError("tenants: two have the same API key")
        check_webhooks(self.webhooks, tenants)
        check_lives(self.served, self.windows)
        check_tiers(self.tiers, self.windows, strict_openai=self.server.strict_openai)
        return self

    def _check_targets(self, known: set[str]) -> None:
        """An upstream without an id may serve any name; otherwise an alias leads to a model, never to another alias."""
        if any(model.engine == "remote" and model.id is None for model in self.served):
            return
        for alias, target in self.aliases.items():
            if target not in known:
                raise ValueError(
                    f"aliases: {alias} stands for {target}, which is none of the models: {', '.join(sorted(known))}"
                )
