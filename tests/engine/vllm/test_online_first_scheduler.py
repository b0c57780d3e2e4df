"""The policy inside vLLM's real schedulers, without a model: whoever is scheduled gets a token that depends on nothing
but its request and position, so that what comes out can be compared with vLLM's own order of work."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import pytest

from engine import embedded
from engine.vllm.online_first.policy import Mode, Orders
from engine.vllm.online_first.step_model import StepModel, StepShape

pytestmark = [
    pytest.mark.real_engine,
    # vLLM and torch are imported here, in this process, with whatever they have to say about each other.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]

pytest.importorskip("vllm")

BLOCK_TOKENS = 16
SLOTS = 16
ONLINE, BATCH = 0, 10


@dataclass
class Bench:
    """A scheduler and a model runner that samples a token per request which can get one. `lag` 1: results of a step
    come after the next one is scheduled, as asynchronous scheduling has it."""

    scheduler: Any
    lag: int
    tokens: dict[str, list[int]] = field(default_factory=dict)
    steps: list[dict[str, int]] = field(default_factory=list)
    under_way: deque[Any] = field(default_factory=deque)
    finished: list[str] = field(default_factory=list)

    def add(self, name: str, priority: int, *, prompt: int = 20, output: int = 10) -> None:
        from vllm.sampling_params import SamplingParams
        from vllm.v1.request import Request

        sampling = SamplingParams(max_tokens=output, ignore_eos=True)
        seed = sum(map(ord, name))
        request = Request(
            request_id=name,
            prompt_token_ids=[(seed * 31 + position) % 1000 for position in range(prompt)],
            sampling_params=sampling,
            pooling_params=None,
            priority=priority,
            arrival_time=float(len(self.tokens)),
        )
        self.tokens[name] = []
        self.scheduler.add_request(request)

    def step(self) -> dict[str, int]:
        """Schedule once and, `lag` steps later, give the results; the tokens that each request was scheduled."""
        output = self.scheduler.schedule()
        reading = {name for name in output.num_scheduled_tokens if self.scheduler.requests[name].is_prefill_chunk}
        if output.num_scheduled_tokens:
            self.under_way.append((output, reading))
        self.steps.append(dict(output.num_scheduled_tokens))
        if len(self.under_way) > self.lag or (self.under_way and not output.num_scheduled_tokens):
            self._deliver(*self.under_way.popleft())
        return self.steps[-1]

    def run(self, steps_max: int = 3000) -> None:
        while self.scheduler.has_unfinished_requests() or self.under_way:
            self.step()
            steps_max -= 1
            assert steps_max, "the queue never empties"

    def _deliver(self, output: Any, reading: set[str]) -> None:
        from vllm.v1.outputs import ModelRunnerOutput

        names = list(output.num_scheduled_tokens)
        sampled = [[] if name in reading else self._sample(name) for name in names]
        result = ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: index for index, name in enumerate(names)},
            sampled_token_ids=sampled,
        )
        for outputs in self.scheduler.update_from_output(output, result).values():
            for one in outputs.outputs:
                self.tokens[one.request_id] += one.new_token_ids
                if one.finish_reason is not None:
                    self.finished.append(one.request_id)

    def _sample(self, name: str) -> list[int]:
        request = self.scheduler.requests.get(name)
        return [] if request is None else [(sum(map(ord, name)) + 7 * len(request.output_token_ids)) % 1000]

    @property
    def running(self) -> list[str]:
        return [one.request_id for one in self.scheduler.running]


def bench(
    kind: str,
    *,
    ours: bool = True,
    blocks: int = 1000,
    slots: int = SLOTS,
    online_slots: int = 2,
    step_tokens: int = 256,
) -> Bench:
    import torch
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
    from vllm.v1.structured_output import StructuredOutputManager

    from engine.vllm.online_first.scheduler import OnlineFirstAsyncScheduler, OnlineFirstScheduler

    config = EngineArgs(
        model=str(embedded.prepare(embedded.CHAT)),
        dtype="bfloat16",
        max_model_len=1024,
        max_num_seqs=slots,
        max_num_batched_tokens=256,
        block_size=BLOCK_TOKENS,
        enforce_eager=True,
        scheduling_policy="priority",
        enable_prefix_caching=False,
        additional_config={"nightbatch": {"online_slots": online_slots}},
    ).create_engine_config()
    config.cache_config.num_gpu_blocks = blocks
    spec = FullAttentionSpec(block_size=BLOCK_TOKENS, num_kv_heads=1, head_size=1, dtype=torch.float32)
    kv_cache = KVCacheConfig(blocks, [], [KVCacheGroupSpec(["layer"], spec)])
    classes = {
        ("sync", True): OnlineFirstScheduler,
        ("async", True): OnlineFirstAsyncScheduler,
        ("sync", False): Scheduler,
        ("async", False): AsyncScheduler,
    }
    scheduler = classes[kind, ours](
        vllm_config=config,
        kv_cache_config=kv_cache,
        structured_output_manager=StructuredOutputManager(config),
        block_size=BLOCK_TOKENS,
        log_stats=True,
    )
    return Bench(scheduler, lag=1 if kind == "async" else 0)


KINDS = pytest.mark.parametrize("kind", ["sync", "async"])


@KINDS
def test_beside_an_online_request_only_a_few_batch_requests_decode_and_keep_their_cache(kind: str) -> None:
    found = bench(kind)
    for no in range(12):
        found.add(f"b{no}", BATCH, output=100)
    for _ in range(4):
        found.step()
    free = found.scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
    found.add("online", ONLINE, output=20)
    beside = [name for name in found.step() if name != "online"]
    assert len(beside) == 1  # while its prompt is read
    scheduled = found.step()
    assert len([name for name in scheduled if name != "online"]) == Orders().beside_untrusted
    assert scheduled["online"] == 1
    assert len(found.running) == 13
    assert free - found.scheduler.kv_cache_manager.block_pool.get_num_free_blocks() < 12
    found.run()
    assert len(found.finished) == 13
    assert "online" in found.finished[:3]


@KINDS
def test_an_online_request_is_scheduled_in_the_step_after_it_came(kind: str) -> None:
    """Slots and KV cache are full of batch work: vLLM's own order lets it wait until one of them ends."""
    ours, stock = bench(kind), bench(kind, ours=False)
    waits = []
    for one in (ours, stock):
        for no in range(SLOTS + 4):
            one.add(f"b{no}", BATCH, output=60)
        for _ in range(6):
            one.step()
        one.add("online", ONLINE)
        waits.append(next(no for no in range(200) if "online" in one.step()))
    assert waits[0] == 0
    assert waits[1] > 20


@KINDS
def test_when_the_cache_is_full_batch_requests_make_room(kind: str) -> None:
    found = bench(kind, blocks=60, online_slots=2)
    for no in range(10):
        found.add(f"b{no}", BATCH, prompt=64, output=64)
    for _ in range(8):
        found.step()
    found.add("online", ONLINE, prompt=160, output=16)
    assert next(no for no in range(50) if "online" in found.step()) <= 1
    assert found.scheduler.report().preemptions > 0
    found.run()
    assert sorted(found.finished) == sorted(found.tokens)
    assert all(len(found.tokens[f"b{no}"]) == 64 for no in range(10))


@KINDS
def test_tokens_are_those_of_vllm_alone_whatever_is_parked_rotated_or_preempted(kind: str) -> None:
    outputs = []
    for ours in (True, False):
        found = bench(kind, ours=ours, blocks=80)
        for no in range(20):
            found.add(f"b{no}", BATCH, prompt=20 + 7 * no, output=40 + no)
        for no in range(6):
            for _ in range(9):
                found.step()
            found.add(f"online{no}", ONLINE, prompt=30 + no, output=25)
        found.run()
        outputs.append(found.tokens)
    assert outputs[0] == outputs[1]


@KINDS
def test_no_batch_request_starves_beside_an_endless_online_load(kind: str) -> None:
    found = bench(kind)
    for no in range(14):
        found.add(f"b{no}", BATCH, output=150)
    online = 0
    for step in range(4000):
        if step % 25 == 0:
            found.add(f"online{online}", ONLINE, prompt=20, output=30)
            online += 1
        found.step()
        if sum(name.startswith("b") for name in found.finished) == 14:
            break
    assert sum(name.startswith("b") for name in found.finished) == 14


@KINDS
def test_resident_requests_never_exceed_the_slots(kind: str) -> None:
    found = bench(kind, slots=8, online_slots=2)
    for no in range(40):
        found.add(f"b{no}", BATCH, output=12)
        if no % 5 == 0:
            found.add(f"online{no}", ONLINE, output=9)
        found.step()
        assert len(found.running) <= 8
        assert sum(one.priority > 0 for one in found.scheduler.running) <= 6 or no == 0
    found.run()
    assert len(found.finished) == 48


@KINDS
def test_a_parked_request_that_is_aborted_gives_everything_back(kind: str) -> None:
    from vllm.v1.request import RequestStatus

    found = bench(kind)
    free = found.scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
    for no in range(12):
        found.add(f"b{no}", BATCH, output=100)
    for _ in range(4):
        found.step()
    found.add("online", ONLINE, output=50)
    for _ in range(6):
        found.step()
    parked = next(name for name in found.running if name not in found.steps[-1])
    found.scheduler.finish_requests(parked, RequestStatus.FINISHED_ABORTED)
    found.step()
    assert parked not in found.running
    found.run()
    assert found.scheduler.kv_cache_manager.block_pool.get_num_free_blocks() == free


@KINDS
def test_an_online_request_whose_client_left_lets_the_batch_go_at_once(kind: str) -> None:
    from vllm.v1.request import RequestStatus

    found = bench(kind)
    for no in range(12):
        found.add(f"b{no}", BATCH, output=100)
    found.add("online", ONLINE, output=500)
    for _ in range(6):
        found.step()
    found.scheduler.finish_requests("online", RequestStatus.FINISHED_ABORTED)
    assert len(found.step()) == 12


@KINDS
def test_a_pause_lets_no_batch_request_take_part_and_its_end_all_of_them(kind: str) -> None:
    found = bench(kind)
    for no in range(8):
        found.add(f"b{no}", BATCH, output=60)
    for _ in range(4):
        found.step()
    found.scheduler._orders = Orders(is_paused=True)
    assert found.step() == {}
    found.add("online", ONLINE)
    assert list(found.step()) == ["online"]
    found.scheduler._orders = Orders()
    found.run()
    assert len(found.finished) == 9


@KINDS
def test_with_the_mode_priority_everything_is_vllms_own(kind: str) -> None:
    ours, stock = bench(kind, online_slots=0), bench(kind, ours=False)
    ours.scheduler._orders = Orders(mode=Mode.PRIORITY)
    for one in (ours, stock):
        for no in range(20):
            one.add(f"b{no}", BATCH if no % 3 else ONLINE, prompt=30 + no, output=20)
        one.run()
    assert ours.steps == stock.steps


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda config: setattr(config.scheduler_config, "policy", "fcfs"), "policy is not priority"),
        (lambda config: setattr(config.parallel_config, "pipeline_parallel_size", 2), "pipeline parallelism"),
        (lambda config: setattr(config, "speculative_config", object()), "speculative decoding"),
        (lambda config: setattr(config, "kv_transfer_config", object()), "connector"),
    ],
)
def test_what_it_was_not_made_for_is_left_to_vllm(change: Any, reason: str) -> None:
    from engine.vllm.online_first.scheduler import refusal

    config = bench("sync").scheduler.vllm_config
    assert refusal(config) is None
    change(config)
    assert reason in (refusal(config) or "")


def test_an_unknown_version_is_left_to_vllm() -> None:
    from engine.vllm.online_first.scheduler import refusal

    assert "vLLM 0.40.1 is not one of the versions" in (refusal(bench("sync").scheduler.vllm_config, "0.40.1") or "")


def test_what_the_engine_does_between_two_steps_counts_and_idleness_does_not() -> None:
    """The time from one token to the next is what online requests feel."""
    made = bench("sync")
    clock = [0.0]
    made.scheduler.clock = lambda: clock[0]
    seen: list[float] = []

    class Listening(StepModel):
        def add(self, shape: StepShape, step_ms: float) -> None:
            seen.append(round(step_ms))

    made.scheduler._model = Listening()
    made.add("o", ONLINE, prompt=8, output=4)
    for _ in range(4):
        clock[0] += 0.005  # sends results, reads what came in
        schedule = made.scheduler.schedule
        made.scheduler.schedule = lambda: (schedule(), clock.__setitem__(0, clock[0] + 0.020))[0]  # noqa: B023
        made.step()
        made.scheduler.schedule = schedule
    assert seen == [20, 25, 25, 25], "the first starts with its own schedule"
    clock[0] += 3600.0
    made.add("p", ONLINE, prompt=8, output=1)
    schedule = made.scheduler.schedule
    made.scheduler.schedule = lambda: (schedule(), clock.__setitem__(0, clock[0] + 0.020))[0]
    made.step()
    assert seen[4:] == [20]
