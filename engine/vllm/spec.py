"""What is asked of one vLLM engine, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.protocol import ModelKind

START_SECONDS_MAX = 1800.0
"""Downloading and loading a large model takes many minutes; a start that takes longer than this is ended."""


@dataclass(frozen=True, slots=True)
class VllmSpec:
    """One engine process serving one model.

    `name` is unique among the engines of a server and names its files (`<name>.log`, `<name>.json`). `source` is a
    local folder or a Hugging Face id. `engine_args` is a mapping with vLLM's own names (underscores or dashes) or a
    list of command-line flags; both are passed verbatim. `kv_cache_bytes` and `device_memory_share` come from the
    memory plan, `cores` from the core plan; an engine argument of the same meaning wins over either. `devices` is what
    CUDA_VISIBLE_DEVICES shows to the engine. `online_first` puts `engine.vllm.online_first` into its scheduler.
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
    start_seconds_max: float = START_SECONDS_MAX
