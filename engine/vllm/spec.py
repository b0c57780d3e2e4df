"""What is asked of one vLLM engine, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.protocol import ModelKind
from engine.slo import Slo

START_SECONDS_MAX = 1800.0
"""Downloading and loading a large model takes many minutes; a start that takes longer than this is ended."""


@dataclass(frozen=True, slots=True)
class VllmSpec:
    """One engine process serving one model.

    `name` is unique among the engines of a server and names its files (`<name>.log`, `<name>.json`). `source` is a
    local folder or a Hugging Face id. `engine_args` is a mapping with vLLM's own names (underscores or dashes) or a
    list of command-line flags; both are passed verbatim. `kv_cache_bytes` and `device_memory_share` come from the
    memory plan, `cores` from the core plan; an engine argument of the same meaning wins over either. `devices` is what
    CUDA_VISIBLE_DEVICES shows to the engine. `memory_bytes` is what the plan counts for it on each of its devices:
    while less than that is free it is not started; None is not checked. With a `sleep_level` it can sleep, on CUDA.
    `online_first` puts `engine.vllm.online_first` into its scheduler, which then keeps `slo` for online requests and
    `online_slots` of its slots free of batch work while they come now and then.
    """

    name: str
    model_id: str
    source: str
    kind: ModelKind | None = None
    engine_args: Mapping[str, Any] | Sequence[str] = field(default_factory=dict)
    device: str = "cpu"
    devices: str | None = None
    kv_cache_bytes: int | None = None
    device_memory_share: float | None = None
    cores: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    online_first: bool = False
    online_slots: int = 0
    slo: Slo = field(default_factory=Slo)
    memory_bytes: int | None = None
    sleep_level: int | None = None
    start_seconds_max: float = START_SECONDS_MAX
