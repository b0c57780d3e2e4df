"""Loaded into a vLLM process by `benchmarks.engine_clock`: writes down when each request came in and was finished.

A stat logger is the one place that vLLM's run_batch, its API server and our engine have in common, so the same code
reads the same clock in every arm. Only this module of the benchmarks imports vLLM, and only inside vLLM.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from vllm.v1.metrics.loggers import StatLoggerBase

FOLDER_VARIABLE = "BENCH_ENGINE_CLOCK"


class EngineClock(StatLoggerBase):  # type: ignore[misc]  # vLLM is not typed for us
    """One line per finished request, flushed once per step in which something finished.

    vLLM counts `e2e_latency` from the moment its front end takes a request in, so `finished_at - e2e_latency` is when
    that was: the first of these is the first engine request.
    """

    def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
        folder = Path(os.environ[FOLDER_VARIABLE])
        self._file = (folder / f"{os.getpid()}-{engine_index}-{id(self)}.jsonl").open("a", encoding="ascii")

    def record(
        self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
    ) -> None:
        if iteration_stats is None or not iteration_stats.finished_requests:
            return
        finished_at = iteration_stats.iteration_timestamp
        self._file.writelines(
            json.dumps(
                {
                    "began_at": finished_at - request.e2e_latency,
                    "finished_at": finished_at,
                    "prompt_tokens": request.num_prompt_tokens,
                    "cached_tokens": request.num_cached_tokens,
                    "output_tokens": request.num_generation_tokens,
                }
            )
            + "\n"
            for request in iteration_stats.finished_requests
        )
        self._file.flush()

    def log_engine_initialized(self) -> None:
        pass
