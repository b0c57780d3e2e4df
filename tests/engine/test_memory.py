"""The split of a device's memory: what fits, what is refused, and that the arithmetic is shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.memory import GIB, MIB, Demand, Device, MemoryRefused, kv_floor_bytes, split_memory

CPU = Device("cpu", "cpu", 24 * GIB, 20 * GIB)
CARD = Device("cuda:0", "cuda", 80 * GIB, 79 * GIB)
CHAT = Demand("chat", weights_bytes=269 * MIB, kv_token_bytes=23_040, context_tokens=8_192)
EMBED = Demand("embed", pooling=True, weights_bytes=91 * MIB)


def test_the_default_models_share_a_small_machine_with_room_to_spare() -> None:
    plan = split_memory(CPU, [CHAT, EMBED])
    assert plan.grants["chat"].kv_bytes == GIB
    assert plan.grants["chat"].device_share is None
    assert plan.grants["embed"].kv_bytes == 64 * MIB
    assert plan.lines[0] == "memory of cpu: 24.00 GiB, free 20.00 GiB, to use 18.00 GiB"
    assert "46,603 tokens" in plan.lines[1]


def test_a_cpu_engine_gets_at_least_one_full_context() -> None:
    large = Demand("large", weights_bytes=2 * GIB, kv_token_bytes=131_072, context_tokens=32_768)
    assert split_memory(CPU, [large]).grants["large"].kv_bytes == 4 * GIB


def test_two_models_on_one_card_divide_what_their_weights_leave() -> None:
    plan = split_memory(CARD, [Demand("a", weights_bytes=16 * GIB), Demand("b", weights_bytes=1 * GIB)])
    a, b = plan.grants["a"], plan.grants["b"]
    assert a.kv_bytes == b.kv_bytes
    assert a.device_share is not None
    assert b.device_share is not None
    assert a.device_share > b.device_share
    assert a.device_share + b.device_share <= 0.92


def test_a_given_share_and_a_given_cache_come_first() -> None:
    shared = Demand("shared", weights_bytes=16 * GIB, share=0.5)
    sized = Demand("sized", weights_bytes=GIB, kv_bytes=4 * GIB)
    rest = Demand("rest", weights_bytes=GIB)
    plan = split_memory(CARD, [shared, sized, rest])
    assert plan.grants["shared"].kv_bytes == 40 * GIB - 16 * GIB - 3 * GIB
    assert plan.grants["sized"].kv_bytes == 4 * GIB
    assert plan.grants["rest"].kv_bytes is not None


def test_unknown_weights_leave_the_cache_to_vllm_within_a_share() -> None:
    plan = split_memory(CARD, [Demand("new")])
    assert plan.grants["new"].kv_bytes is None
    assert plan.grants["new"].device_share == pytest.approx(0.92)
    assert "weights unknown" in plan.lines[1]


def test_what_cannot_fit_is_refused_with_its_arithmetic() -> None:
    with pytest.raises(MemoryRefused) as raised:
        split_memory(CARD, [Demand("a", weights_bytes=60 * GIB), Demand("b", weights_bytes=30 * GIB)])
    text = str(raised.value)
    assert "weights 60.00 GiB" in text
    assert "22.40 GiB too much for cuda:0" in text
    assert "another device" in text


def test_a_cache_below_one_context_is_refused_with_the_flag_that_helps() -> None:
    long = Demand("long", weights_bytes=70 * GIB, kv_token_bytes=131_072, context_tokens=131_072)
    with pytest.raises(MemoryRefused, match=r"needs 16.00 GiB \(one request of 131,072 tokens\).*max_model_len"):
        split_memory(CARD, [long])


sizes = st.integers(0, 100).map(lambda gib: gib * GIB)
demands = st.lists(
    st.builds(
        Demand,
        engine=st.uuids().map(str),
        pooling=st.booleans(),
        weights_bytes=st.none() | sizes,
        share=st.none() | st.floats(0.01, 1),
        kv_bytes=st.none() | sizes,
        kv_token_bytes=st.none() | st.integers(1_000, 500_000),
        context_tokens=st.none() | st.integers(1, 200_000),
    ),
    min_size=1,
    max_size=5,
)


@given(wanted=demands, total=st.integers(1, 200), cuda=st.booleans())
def test_a_plan_never_gives_away_more_than_there_is(wanted: list[Demand], total: int, cuda: bool) -> None:
    device = Device("d", "cuda" if cuda else "cpu", total * GIB, total * GIB)
    try:
        plan = split_memory(device, wanted)
    except MemoryRefused:
        return
    given_away = sum((plan.grants[d.engine].kv_bytes or 0) + (d.weights_bytes or 0) for d in wanted)
    assert given_away <= device.total_bytes
    for demand in wanted:
        cache = plan.grants[demand.engine].kv_bytes
        assert cache is None or cache >= kv_floor_bytes(demand)
