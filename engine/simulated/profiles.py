"""How fast a simulated engine is. Every figure stands here with where it comes from."""

from __future__ import annotations

from dataclasses import dataclass

from engine.protocol import GENERATE_ENDPOINTS, POOLING_ENDPOINTS, ModelInfo, ModelKind

# 2026-01-01; a constant, because an answer shows it and answers are pure functions of the request.
CREATED_AT = 1_767_225_600


@dataclass(frozen=True, slots=True)
class SimulatedProfile:
    """One device with one model on it.

    A step takes `step_seconds + decode_seconds * sequences that decode + prefill_seconds * prompt tokens computed`, at
    most `step_tokens_max` tokens. The KV cache holds `kv_tokens_max` tokens in blocks of `block_tokens`, and keeps
    the blocks of finished requests for reuse until the room is needed. One that is `instant` has no steps at all: every
    request is answered in the moment in which it comes.
    """

    name: str
    step_seconds: float
    decode_seconds: float
    prefill_seconds: float
    step_tokens_max: int
    running_max: int
    waiting_max: int
    kv_tokens_max: int
    block_tokens: int
    context_tokens_max: int
    output_tokens_mean: int
    embedding_dimensions: int
    source: str
    instant: bool = False

    def __post_init__(self) -> None:
        if self.context_tokens_max > self.blocks * self.block_tokens:
            raise ValueError(
                f"profile {self.name}: one request of context_tokens_max ({self.context_tokens_max}) would never "
                f"fit into a KV cache of {self.blocks} blocks of {self.block_tokens} tokens"
            )

    @property
    def blocks(self) -> int:
        return self.kv_tokens_max // self.block_tokens

    def seconds_of_step(self, decoding: int, prefill_tokens: int) -> float:
        return self.step_seconds + self.decode_seconds * decoding + self.prefill_seconds * prefill_tokens


CPU_135M = SimulatedProfile(
    name="cpu-135m",
    # t(n) = 14.2 ms + 1.905 ms * n gives 62, 183, 272 and 470 tok/s at 1, 4, 8 and 64 in flight (measured: 62, 187,
    # 265, 470; one core). With every core bound the same machine reaches 781 tok/s: scale time by 0.6 for that.
    step_seconds=0.0142,
    decode_seconds=0.001905,
    prefill_seconds=0.0017,  # 1.5 to 1.9 ms a token
    step_tokens_max=2_048,
    running_max=64,
    waiting_max=4_096,
    kv_tokens_max=46_592,  # 1 GiB at 23,040 bytes a token (30 layers x 2 x 3 heads x 64 x 2 bytes)
    block_tokens=32,
    context_tokens_max=8_192,
    output_tokens_mean=48,
    embedding_dimensions=384,
    source="measured: SmolLM2-135M-Instruct, bf16, vLLM 0.32 on one core of a 2-core x86 machine",
)

GPU_8B = SimulatedProfile(
    name="gpu-8b",
    # Decode nearly flat: 5 ms to read the weights, 1.5 times that with 64 sequences.
    step_seconds=0.005,
    decode_seconds=0.005 * 0.5 / 64,
    prefill_seconds=0.005 * 50 / 8_192,  # a chunk of 8,192 prompt tokens costs about 50 decode steps
    step_tokens_max=8_192,
    running_max=256,
    waiting_max=16_384,
    kv_tokens_max=400_000,  # about 50 GB at 128 KiB a token
    block_tokens=16,
    context_tokens_max=131_072,
    output_tokens_mean=200,
    embedding_dimensions=1_024,
    source="assumed: an 8B model in bf16 on one 80 GB card; not measured here",
)

INSTANT = SimulatedProfile(
    name="instant",
    step_seconds=0.0,
    decode_seconds=0.0,
    prefill_seconds=0.0,
    step_tokens_max=8_192,
    running_max=256,
    waiting_max=16_384,
    kv_tokens_max=400_000,
    block_tokens=16,
    context_tokens_max=131_072,
    output_tokens_mean=4,
    embedding_dimensions=384,
    source="none: it takes no time, so that what is measured is everything around it",
    instant=True,
)

PROFILES = {profile.name: profile for profile in (CPU_135M, GPU_8B, INSTANT)}


def simulated_model(
    model_id: str, profile: SimulatedProfile, kind: ModelKind = ModelKind.GENERATE, *, revision: str | None = None
) -> ModelInfo:
    """A model of a simulated engine. The default revision names the preset: its answers depend on nothing else."""
    return ModelInfo(
        id=model_id,
        revision=revision or f"simulated:{profile.name}",
        kind=kind,
        endpoints=GENERATE_ENDPOINTS if kind is ModelKind.GENERATE else POOLING_ENDPOINTS,
        context_tokens_max=profile.context_tokens_max,
        created_at=CREATED_AT,
        dimensions=profile.embedding_dimensions if kind is ModelKind.POOLING else None,
    )


def default_models(profile: SimulatedProfile) -> tuple[ModelInfo, ...]:
    """One chat model and one embedding model, named after the preset."""
    return (
        simulated_model(f"simulated-{profile.name}", profile),
        simulated_model(f"simulated-{profile.name}-embed", profile, ModelKind.POOLING),
    )
