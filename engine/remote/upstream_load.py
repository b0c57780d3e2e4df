"""What an upstream's Prometheus text says of its load. Pure.

Only the few series that matter are read, line by line: a whole exposition has a thousand, and is read twice a second.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from engine.protocol import EngineLoad

RUNNING = "running"
WAITING = "waiting"
KV_USE = "kv_use"
ITL_SECONDS = "itl_seconds"
ITL_COUNT = "itl_count"

SERIES = {
    "vllm:num_requests_running": RUNNING,
    "vllm:num_requests_waiting": WAITING,
    "vllm:kv_cache_usage_perc": KV_USE,
    "vllm:inter_token_latency_seconds_sum": ITL_SECONDS,
    "vllm:inter_token_latency_seconds_count": ITL_COUNT,
    "vllm:time_per_output_token_seconds_sum": ITL_SECONDS,
    "vllm:time_per_output_token_seconds_count": ITL_COUNT,
    "sglang:num_running_reqs": RUNNING,
    "sglang:num_queue_reqs": WAITING,
    "sglang:token_usage": KV_USE,
    "sglang:inter_token_latency_seconds_sum": ITL_SECONDS,
    "sglang:inter_token_latency_seconds_count": ITL_COUNT,
    "llamacpp:requests_processing": RUNNING,
    "llamacpp:requests_deferred": WAITING,
    "llamacpp:kv_cache_usage_ratio": KV_USE,
    "tgi_batch_current_size": RUNNING,
    "tgi_queue_size": WAITING,
    "simulated_requests_running": RUNNING,
    "simulated_requests_waiting": WAITING,
    "simulated_kv_cache_use": KV_USE,
}
"""vLLM (the second name of a token's time is its older one), SGLang, llama.cpp, TGI, and another Nightbatch."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One look. Requests of all engines behind the URL; the fullest one's KV cache; token times since its start."""

    running: int = 0
    waiting: int = 0
    kv_use: float = 0.0
    itl_seconds: float = 0.0
    itl_count: float = 0.0

    @property
    def requests(self) -> int:
        return self.running + self.waiting


def read_load(text: str) -> Reading | None:
    """None when nothing in it tells how many requests there are."""
    sums = dict.fromkeys((RUNNING, WAITING, ITL_SECONDS, ITL_COUNT), 0.0)
    kv_use, known = 0.0, False
    for line in text.splitlines():
        if not line or line[0] == "#":
            continue
        means = SERIES.get(line.partition("{")[0].partition(" ")[0])
        value = None if means is None else _value(line)
        if value is None:
            continue
        if means == KV_USE:
            kv_use = max(kv_use, value)
        else:
            assert means is not None
            sums[means] += value
            known = known or means == RUNNING
    if not known:
        return None
    return Reading(int(sums[RUNNING]), int(sums[WAITING]), min(kv_use, 1.0), sums[ITL_SECONDS], sums[ITL_COUNT])


def _value(line: str) -> float | None:
    """Of `name{labels} value` or `name value`, perhaps with a time behind it. A label may hold spaces and braces."""
    behind = line.rpartition("}")[2] if "{" in line else line.partition(" ")[2]
    words = behind.split()
    try:
        value = float(words[0])
    except (IndexError, ValueError):
        return None
    return value if math.isfinite(value) and value >= 0 else None


def step_ms(before: Reading, now: Reading) -> float:
    """Mean time of a token between two looks: of one step, since every request gets a token from each. 0: there was
    none, or the upstream counts anew."""
    tokens, seconds = now.itl_count - before.itl_count, now.itl_seconds - before.itl_seconds
    return seconds / tokens * 1000 if tokens > 0 and seconds > 0 else 0.0


@dataclass(slots=True)
class UpstreamLoad:
    """The load as it is shown: what two looks agree on, and what we have in flight ourselves."""

    _reading: Reading | None = None
    _step_ms: float = 0.0
    _over: int = 0
    _elsewhere: int = 0

    def seen(self, reading: Reading, *, ours_max: int) -> None:
        """`ours_max` is the most that we had in flight while the look was under way. Requests beyond that are someone
        else's only if the look before saw them too: one that ends just then is counted there and no more here."""
        over = max(0, reading.requests - ours_max)
        self._elsewhere = min(over, self._over)
        self._over = over
        self._step_ms = 0.0 if self._reading is None else step_ms(self._reading, reading)
        self._reading = reading

    def unseen(self) -> None:
        """The upstream does not tell, or no more."""
        self._reading, self._step_ms, self._over, self._elsewhere = None, 0.0, 0, 0

    @property
    def elsewhere(self) -> int:
        return self._elsewhere

    def load(self, ours: int) -> EngineLoad:
        """`ours` are in flight now, and are known without asking."""
        if self._reading is None:
            return EngineLoad(running=ours)
        total = ours + self._elsewhere
        waiting = min(self._reading.waiting, total)
        return EngineLoad(total - waiting, waiting, self._reading.kv_use, self._step_ms, self._elsewhere)
