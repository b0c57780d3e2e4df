"""What online requests are promised while batch work shares their engine."""

from __future__ import annotations

from dataclasses import dataclass

TTFT_FACTOR = 2.0
ITL_FACTOR = 1.5


@dataclass(frozen=True, slots=True)
class Slo:
    """Milliseconds at the 99th percentile; None is `auto`: the factor times what the engine needs for the same without
    batch work, as measured while it runs."""

    ttft_ms_p99: float | None = None
    itl_ms_p99: float | None = None
    ttft_factor: float = TTFT_FACTOR
    itl_factor: float = ITL_FACTOR
