"""Our scheduler class with a log of its steps and three knobs for baselines. Loaded by name inside vLLM, never here.

It stands in for the class that the engine would use anyway, in every arm alike. First come, first served is vLLM's
priority queue with everybody in one class: it then orders by arrival, for admission and for preemption.
"""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path
from typing import Any

from benchmarks import step_log
from benchmarks.step_log import KNOBS, Knobs, Step
from engine.protocol import BATCH_PRIORITY
from engine.vllm.online_first.scheduler import OnlineFirstAsyncScheduler, OnlineFirstScheduler


class _Measured:
    """A mixin before either class."""

    _tokens: int
    max_num_scheduled_tokens: int
    scheduler_config: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        folder = Path(os.environ[step_log.FOLDER_VARIABLE])
        with (folder / step_log.KNOBS_NAME).open("r+b") as file:
            self._knobs = mmap.mmap(file.fileno(), KNOBS.size)
        self._log_fd = os.open(folder / step_log.LOG_NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._step_tokens_start = self._tokens
        self._online_ids: set[str] = set()
        self._under_way: dict[int, tuple[float, set[str], int, int]] = {}

    @property
    def _turned(self) -> Knobs:
        return Knobs(*KNOBS.unpack(self._knobs))

    def add_request(self, request: Any) -> None:
        if request.priority <= 0:
            self._online_ids.add(request.request_id)
            if self._turned.is_fcfs:
                request.priority = BATCH_PRIORITY
        super().add_request(request)  # type: ignore[misc]

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        turned = self._turned
        self._tokens = min(turned.step_tokens or self._step_tokens_start, self._step_tokens_start)
        self.max_num_scheduled_tokens = self._tokens
        if self.scheduler_config.long_prefill_token_threshold != turned.long_prefill_tokens:
            self.scheduler_config.long_prefill_token_threshold = turned.long_prefill_tokens
        began = time.perf_counter()
        output = super().schedule(*args, **kwargs)  # type: ignore[misc]
        scheduled = output.num_scheduled_tokens
        if scheduled:
            online = self._online_ids & scheduled.keys()
            prompts = {name: tokens for name, tokens in scheduled.items() if tokens > 1}
            online_prompt = sum(tokens for name, tokens in prompts.items() if name in online)
            batch_prompt = sum(prompts.values()) - online_prompt
            self._under_way[id(output)] = (began, online, batch_prompt, online_prompt)
        return output

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        outputs = super().update_from_output(scheduler_output, model_runner_output)  # type: ignore[misc]
        found = self._under_way.pop(id(scheduler_output), None)
        if found is not None:
            self._write(*found, outputs)
        return outputs

    def _write(self, began: float, online: set[str], batch_prompt: int, online_prompt: int, outputs: Any) -> None:
        batch_output = online_output = 0
        for group in outputs.values():
            for one in group.outputs:
                if one.request_id in online:
                    online_output += len(one.new_token_ids)
                    if one.finish_reason is not None:
                        self._online_ids.discard(one.request_id)
                else:
                    batch_output += len(one.new_token_ids)
        step = Step(
            ended_at=time.time(),
            batch_output=batch_output,
            batch_prompt=batch_prompt,
            online_output=online_output,
            online_prompt=online_prompt,
            running=len(self.running),  # type: ignore[attr-defined]
            waiting=len(self.waiting),  # type: ignore[attr-defined]
            step_us=int((time.perf_counter() - began) * 1e6),
        )
        os.write(self._log_fd, step.packed())


class MeasuredScheduler(_Measured, OnlineFirstScheduler):
    """For engines without asynchronous scheduling: every CPU engine."""


class MeasuredAsyncScheduler(_Measured, OnlineFirstAsyncScheduler):
    """For engines with asynchronous scheduling, CUDA's default."""
