"""What online requests felt, as a multiple of what they should: 1 is just right. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from engine.slo import Slo

GAPS_MIN = 8
TAIL_GAPS_MIN = 20
TTFT_MIN = 5
TAIL = 0.95


def stress(
    itl_ms: Sequence[float], ttft_ms: Sequence[float], *, slo: Slo, step_ms_target: float | None
) -> float | None:
    """The worst of what is known; None when too little was seen, or there is nothing to compare it with.

    A target in milliseconds is one for the tail, so the tail is held against it. `auto` compares what is usual: the
    median, since one long prompt in a step says nothing of the steps beside it.
    """
    felt: list[float] = []
    if slo.itl_ms_p99 is not None:
        if len(itl_ms) >= TAIL_GAPS_MIN:
            felt.append(tail(itl_ms) / slo.itl_ms_p99)
    elif step_ms_target is not None and len(itl_ms) >= GAPS_MIN:
        felt.append(statistics.median(itl_ms) / step_ms_target)
    if slo.ttft_ms_p99 is not None and len(ttft_ms) >= TTFT_MIN:
        felt.append(tail(ttft_ms) / slo.ttft_ms_p99)
    return max(felt, default=None)


def tail(samples: Sequence[float]) -> float:
    """The 95th percentile: of the few samples of some seconds the 99th would be the largest one."""
    return sorted(samples)[min(len(samples) - 1, int(TAIL * len(samples)))]
