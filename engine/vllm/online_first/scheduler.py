"""The policy inside vLLM: a mixin over both of its scheduler classes, `Scheduler` (CPU) and `AsyncScheduler` (CUDA).

vLLM schedules `running` in list order, then admits from `waiting`, which is ordered by priority. For the length of one
call this mixin takes batch requests that are to sit the step out away from `running` (their KV cache stays), puts the
online ones first, and bounds the step's tokens and the admissions; afterwards `running` is as it was. vLLM's scheduler
interface is not public: `refusal` names what this was not made for, and then everything is vLLM's own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request, RequestStatus
from vllm.version import __version__ as vllm_version

from engine.vllm.online_first.channel import Channel, Report
from engine.vllm.online_first.policy import Mode, Orders, Resident, Share, rotated, share, share_idle
from engine.vllm.online_first.step_model import StepModel, StepShape

if TYPE_CHECKING:
    from vllm.config import VllmConfig


class _Base:
    """The part of vLLM's scheduler that the mixin touches, read in vLLM 0.32."""

    vllm_config: VllmConfig
    running: list[Request]
    requests: dict[str, Request]
    kv_cache_manager: Any
    block_size: int
    max_num_active_reqs: int
    max_num_scheduled_tokens: int

    if TYPE_CHECKING:

        def __init__(self, *args: Any, **kwargs: Any) -> None: ...
        def add_request(self, request: Request) -> None: ...
        def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput: ...
        def update_from_output(self, scheduler_output: SchedulerOutput, model_runner_output: Any) -> Any: ...
        def get_num_unfinished_requests(self) -> int: ...
        def _preempt_request(self, request: Request, timestamp: float) -> None: ...


log = logging.getLogger("nightbatch.online_first")

KNOWN_VERSIONS = ("0.32.",)
CONFIG_KEY = "nightbatch"
ROTATE_STEPS = 64
"""Who decodes beside online requests changes this often; each change costs the engine a rebuilt batch."""

PRESENCE_SECONDS = 600.0
"""How long after the last online request the next one is expected: until then steps without one stay short and slots
stay free for it. Later the batch has the engine to itself, and the first to come waits for one long step."""

PROMPT_TOKENS_ASSUMED = 64.0
PROMPT_WEIGHT = 0.1
"""Of the newest online prompt in the mean length from which the time to its first token is expected."""

REPORT_SECONDS = 0.2
STEP_SECONDS_MAX = 60.0
"""A longer gap is no step: the machine slept."""


def refusal(config: VllmConfig, version: str = vllm_version) -> str | None:
    """Why online-first scheduling cannot be used with this engine; None when it can."""
    if not version.startswith(KNOWN_VERSIONS):
        return f"vLLM {version} is not one of the versions that it was made for ({', '.join(KNOWN_VERSIONS)}*)"
    if config.scheduler_config.policy != "priority":
        return "the scheduling policy is not priority"
    if config.model_config.runner_type != "generate":
        return "the model does not generate"
    if config.kv_transfer_config is not None or config.ec_transfer_config is not None:
        return "a KV or encoder-cache connector is set"
    if config.parallel_config.pipeline_parallel_size > 1:
        return "pipeline parallelism is on"
    if config.speculative_config is not None:
        return "speculative decoding is on"
    return None


class OnlineFirst(_Base):
    """Settings come in `additional_config["nightbatch"]`: `channel` (path), `online_slots`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        settings = _settings(self.vllm_config.additional_config)
        self._refusal = refusal(self.vllm_config)
        if self._refusal is not None:
            log.warning("online-first scheduling is off, vLLM's own is used: %s", self._refusal)
        self._channel = _channel(settings.get("channel"))
        self._orders = Orders()
        self._model = StepModel()
        self._batch_slots = max(1, self.max_num_active_reqs - int(settings.get("online_slots", 0)))
        self._slots = self.max_num_active_reqs
        self._tokens = self.max_num_scheduled_tokens
        self._online: dict[str, Request] = {}
        self._online_at: float | None = None
        self._online_prompt_tokens = PROMPT_TOKENS_ASSUMED
        self._beside: list[str] = []
        self._turns = 0
        self._steps_beside = 0
        self._steps = 0
        self._parked = 0
        self._preemptions = 0
        self._online_step_ms = 0.0
        self._shapes: dict[int, tuple[StepShape, bool]] = {}
        self._last_done_at: float | None = None
        self._was_idle = True
        self._reported_at = 0.0
        self.clock: Callable[[], float] = time.monotonic

    # --- what vLLM calls

    def add_request(self, request: Request) -> None:
        if request.priority <= 0:
            self._online[request.request_id] = request
            self._online_at = self.clock()
            self._online_prompt_tokens += PROMPT_WEIGHT * (request.num_tokens - self._online_prompt_tokens)
        super().add_request(request)

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        if self._refusal is not None:
            return super().schedule(throttle_prefills)
        if self._channel is not None:
            self._orders = self._channel.orders(self._orders)
        self._online = {name: one for name, one in self._online.items() if not one.is_finished()}
        if self._orders.mode is Mode.PRIORITY and not self._orders.is_paused:
            return self._noted(super().schedule(throttle_prefills), online=bool(self._online))
        before = list(self.running)
        try:
            parked = self._arrange()
            output = super().schedule(throttle_prefills)
        finally:
            self._restore(before)
            self.max_num_scheduled_tokens, self.max_num_active_reqs = self._tokens, self._slots
        self._parked = len(parked)
        return self._noted(output, online=bool(self._online))

    def update_from_output(self, scheduler_output: SchedulerOutput, model_runner_output: Any) -> Any:
        outputs = super().update_from_output(scheduler_output, model_runner_output)
        self._learn(scheduler_output)
        self._was_idle = self.get_num_unfinished_requests() == 0
        return outputs

    # --- one step

    def _arrange(self) -> list[Request]:
        """Set `running` and the bounds for the coming call; returns who sits the step out."""
        waiting = [one for one in self._online.values() if one.status is not RequestStatus.RUNNING]
        self._make_room(waiting)
        residents = {one.request_id: one for one in self.running}
        online = [one for one in self.running if one.priority <= 0]
        batch = [one for one in self.running if one.priority > 0]
        if not self._online and not self._orders.is_paused and not self._expects_online():
            return []
        found = self._share(online, batch, waiting)
        self._beside = [name for name in found.take_part if residents[name].priority > 0]
        visible = [*online, *(residents[name] for name in found.take_part)]
        taken = set(found.take_part)
        parked = [one for one in batch if one.request_id not in taken]
        room = max(0, self._batch_slots - len(batch))
        self.running = visible
        self.max_num_scheduled_tokens = found.step_tokens_max
        self.max_num_active_reqs = min(
            self._slots - len(parked), len(visible) + len(waiting) + min(room, found.admit_max)
        )
        return parked

    def _share(self, online: Sequence[Request], batch: Sequence[Request], waiting: Sequence[Request]) -> Share:
        self._turns += 1
        is_due = self._turns % ROTATE_STEPS == 0
        views = {one.request_id: _view(one) for one in batch}
        order = [views[name] for name in rotated(list(views), self._beside, is_due=is_due)]
        if not self._online and not self._orders.is_paused:
            return share_idle(
                order,
                online_prompt_tokens=self._online_prompt_tokens,
                step_tokens_max=self._tokens,
                orders=self._orders,
                model=self._model,
            )
        self._steps_beside += 1
        return share(
            [*map(_view, online), *order],
            online_waiting_tokens=sum(one.num_tokens for one in waiting),
            step_tokens_max=self._tokens,
            orders=self._orders,
            model=self._model,
        )

    def _expects_online(self) -> bool:
        """Whether an online request may come any moment: steps of the batch alone stay short then."""
        return self._online_at is not None and self.clock() - self._online_at <= PRESENCE_SECONDS

    def _restore(self, before: list[Request]) -> None:
        """`running` in its old order, without those that were preempted meanwhile, and with the new ones."""
        known = set(before)
        new = [one for one in self.running if one not in known]
        self.running = [one for one in before if one.status is RequestStatus.RUNNING] + new

    def _make_room(self, waiting: list[Request]) -> None:
        """Give back slots and KV blocks of the youngest batch requests while online ones would not get theirs: vLLM
        looks for victims only among those that take part, and never for a request that is still waiting."""
        if not self._online:
            return
        pool = self.kv_cache_manager.block_pool
        needed = sum(-(-one.num_tokens // self.block_size) + 1 for one in waiting)
        needed += sum(one.priority <= 0 for one in self.running)
        slots_needed = len(self.running) + len(waiting) - self._slots
        victims = sorted(
            (one for one in self.running if one.priority > 0), key=lambda one: (one.priority, one.arrival_time)
        )
        while victims and (slots_needed > 0 or pool.get_num_free_blocks() < needed):
            victim = victims.pop()
            self.running.remove(victim)
            self._preempt_request(victim, time.monotonic())
            slots_needed -= 1
            self._preemptions += 1

    # --- learning

    def _noted(self, output: SchedulerOutput, *, online: bool) -> SchedulerOutput:
        """Remember what the step consists of until its results come back."""
        self._steps += 1
        if output.total_num_scheduled_tokens:
            if not self._shapes and self._was_idle:
                self._last_done_at = self.clock()
            self._shapes[id(output)] = (self._shape(output), online)
        self._was_idle = not output.total_num_scheduled_tokens
        return output

    def _shape(self, output: SchedulerOutput) -> StepShape:
        decodes, prefill_tokens, context = 0, 0, 0
        for name, tokens in output.num_scheduled_tokens.items():
            request = self.requests[name]
            if tokens == 1:
                decodes += 1
            else:
                prefill_tokens += tokens
            context += request.num_computed_tokens
        return StepShape(decodes, prefill_tokens, context)

    def _learn(self, output: SchedulerOutput) -> None:
        """A step lasts from the results of the one before it to its own: what the engine does between two steps is part
        of the time from one token to the next. After idleness it lasts from its start."""
        found = self._shapes.pop(id(output), None)
        now = self.clock()
        if found is None or self._last_done_at is None:
            return
        step_ms = (now - self._last_done_at) * 1000
        self._last_done_at = now
        if step_ms > STEP_SECONDS_MAX * 1000:
            return
        shape, online = found
        self._model.add(shape, step_ms)
        if online:
            self._online_step_ms += 0.05 * (step_ms - self._online_step_ms) if self._online_step_ms else step_ms
        if self._channel is not None and now - self._reported_at >= REPORT_SECONDS:
            self._reported_at = now
            self._channel.report(self.report(step_ms))

    def report(self, step_ms: float = 0.0) -> Report:
        model = self._model
        return Report(
            steps=self._steps,
            steps_beside=self._steps_beside,
            parked=self._parked,
            beside=len(self._beside),
            preemptions=self._preemptions,
            step_ms=step_ms,
            base_ms=model.weights[0],
            decode_ms=model.weights[1],
            prefill_token_ms=model.weights[2],
            context_kilotoken_ms=model.weights[3],
            relative_error=model.relative_error,
            online_step_ms=self._online_step_ms,
        )


class OnlineFirstScheduler(OnlineFirst, Scheduler):  # type: ignore[misc]
    """For engines without asynchronous scheduling: every CPU engine."""


class OnlineFirstAsyncScheduler(OnlineFirst, AsyncScheduler):  # type: ignore[misc]
    """For engines with asynchronous scheduling, CUDA's default."""


def _settings(additional_config: object) -> dict[str, Any]:
    found = additional_config.get(CONFIG_KEY, {}) if isinstance(additional_config, dict) else {}
    return dict(found)


def _view(request: Request) -> Resident:
    left = request.num_tokens + request.num_output_placeholders - request.num_computed_tokens
    return Resident(request.request_id, request.priority <= 0, 0 if left <= 1 else left, request.num_computed_tokens)


def _channel(path: object) -> Channel | None:
    """Without a channel the defaults hold; one that cannot be opened is said and does not stop the engine."""
    if path is None:
        return None
    try:
        return Channel.open(Path(str(path)))
    except (OSError, ValueError) as error:
        log.warning("online-first scheduling runs with its defaults: %s", error)
        return None
