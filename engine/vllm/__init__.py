"""vLLM behind the seam. Importing this package imports no vllm and no torch: they live in the host process."""

from engine.vllm.engine import VllmEngine
from engine.vllm.spec import VllmSpec

__all__ = ["VllmEngine", "VllmSpec"]
